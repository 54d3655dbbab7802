"""The command line. Exit status 0, or 1 for a failure, or 2 for arguments and settings that cannot be used."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loadtest import cli as load
from server import (
    bootstrap,
    hold_commands,
    ledger_commands,
    logs,
    operator_commands,
    policy_commands,
    settings,
    usage_command,
    workers,
)
from server.domain.units import MAX_AMOUNT
from server.reaching import TOKEN_NOTE, Target, TargetError, add_shown, complain, target_of, warn

OK: Final = 0
FAILED: Final = 1
UNUSABLE: Final = 2

_HEALTH_TIMEOUT_S: Final = 2.0
_THIS_MACHINE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  # nothing is bound here
_SERVE_NOTE: Final = "A flag wins over its variable, a variable over the default."
_STORE_SETTINGS: Final = ("store", "redis_url", "data_dir", "fsync", "log_level")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; `arguments` are those of the process by default. Returns the exit status."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if not hasattr(chosen, "run"):
        parser.print_help()
        return UNUSABLE
    try:
        status: int = chosen.run(chosen)
    except (settings.SettingsError, TargetError) as error:
        _complain(str(error))
        return UNUSABLE
    except bootstrap.StartError as error:
        _complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    return status


def _serve(chosen: argparse.Namespace) -> int:
    found = settings.from_flags(vars(chosen))
    logs.configure(found.log_level)
    uvloop.run((workers if found.workers > 1 else bootstrap).serve(found, _say))
    return OK


def _adopt(chosen: argparse.Namespace) -> int:
    found = settings.from_flags(vars(chosen))
    logs.configure(found.log_level)
    _say(asyncio.run(bootstrap.adopt_store(found)))
    return OK


def _health(chosen: argparse.Namespace) -> int:
    request = health_pb2.HealthCheckRequest(service=chosen.service)
    target = _target(chosen)
    with target.channel() as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(request, timeout=_HEALTH_TIMEOUT_S)  # type: ignore[attr-defined]  # stubs lack it
        except grpc.RpcError as error:
            ended = complain(target, error)
            if error.code() is grpc.StatusCode.NOT_FOUND:
                warn(f"it tells of no {chosen.service!r}; docs/operating.md has the names, none stands for the whole")
            return ended
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    _say(f"{chosen.address}: {status}")
    return OK if answer.status == health_pb2.HealthCheckResponse.SERVING else FAILED


def _target(chosen: argparse.Namespace) -> Target:
    return target_of(_reachable(chosen.address), chosen)


def _reachable(address: str) -> str:
    """The address to call for one that a server listens on: 0.0.0.0 and [::] stand for this machine."""
    host, colon, port = address.rpartition(":")
    return f"{_THIS_MACHINE.get(host, host)}{colon}{port}"


def _version(_chosen: argparse.Namespace) -> int:
    _say(f"holdgate {version('holdgate')}")
    return OK


def _usage(chosen: argparse.Namespace) -> int:
    return usage_command.usage(_target(chosen), chosen.policy, chosen.tenant, dict(chosen.scope))


def _ledger(chosen: argparse.Namespace) -> int:
    return ledger_commands.ledger(_target(chosen), chosen.policy, chosen.tenant, chosen.export)


def _reconcile(chosen: argparse.Namespace) -> int:
    return ledger_commands.reconcile(_target(chosen), chosen.policy, chosen.tenant, chosen.reason, repair=chosen.repair)


def _holds(chosen: argparse.Namespace) -> int:
    return hold_commands.holds(_target(chosen), chosen.policy, chosen.tenant)


def _release(chosen: argparse.Namespace) -> int:
    return hold_commands.release(_target(chosen), chosen.policy, chosen.tenant, chosen.hold, chosen.reason)


def _asked(chosen: argparse.Namespace) -> operator_commands.Asked:
    words = chosen.policy, chosen.tenant, chosen.limit, dict(chosen.scope), chosen.reason, chosen.id
    return operator_commands.Asked(*words)


def _reset(chosen: argparse.Namespace) -> int:
    return operator_commands.reset(_target(chosen), _asked(chosen), yes=chosen.yes)


def _adjust(chosen: argparse.Namespace) -> int:
    change = {"add": chosen.add} if chosen.set_to is None else {"set_to": chosen.set_to}
    return operator_commands.adjust(_target(chosen), _asked(chosen), change)


def _delete(chosen: argparse.Namespace) -> int:
    whose = operator_commands.Whose(chosen.policy, chosen.tenant, chosen.reason)
    return operator_commands.delete(_target(chosen), whose, force=chosen.force, yes=chosen.yes)


def _audit(chosen: argparse.Namespace) -> int:
    return operator_commands.audit(_target(chosen), chosen.policy, chosen.tenant)


def _policy_check(chosen: argparse.Namespace) -> int:
    return policy_commands.check(chosen.paths)


def _policy_schema(_chosen: argparse.Namespace) -> int:
    return policy_commands.schema()


def _policy_explain(chosen: argparse.Namespace) -> int:
    account = {"plan": chosen.plan, "flags": dict.fromkeys(chosen.flag, True)}
    return policy_commands.explain(chosen.path, account, chosen.action, dict(chosen.scope), dict(chosen.amount))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="holdgate", description="Decides, in one atomic step, whether a request fits every quota."
    )
    parser.add_argument("--version", action="version", version=f"holdgate {version('holdgate')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    serve = commands.add_parser("serve", help="answer calls until stopped", epilog=_SERVE_NOTE)
    settings.add_flags(serve)
    serve.set_defaults(run=_serve)
    _add_policy(commands.add_parser("policy", help="check and explain policy files, without a server"))
    _add_store(commands.add_parser("store", help="look after the store"))
    _add_usage(commands.add_parser("usage", help="show a tenant's limits as bars, and the cycles of its quotas"))
    _add_ledger(commands.add_parser("ledger", help="print the movements of a tenant's money as a statement"))
    _add_reconcile(
        commands.add_parser("reconcile", help="hold a tenant's balances against its ledger and its open holds")
    )
    _add_holds(commands.add_parser("holds", help="list a tenant's open holds, the earliest lease end first"))
    _add_release(commands.add_parser("release", help="end a hold whose owner is gone, and give back what it keeps"))
    _add_reset(commands.add_parser("reset", help="forget what a window has counted, or a quota in its current cycle"))
    _add_adjust(commands.add_parser("adjust", help="change what is used of a quota, or a balance, by an amount"))
    _add_delete(commands.add_parser("delete", help="delete everything of a tenant"))
    _add_audit(commands.add_parser("audit", help="list what operators did by hand: when, who, what, and why"))
    _add_health(commands.add_parser("health", help="ask a server whether it is serving: exit status 0 if it is"))
    load_parser = commands.add_parser(
        "load",
        help="measure a server under load, and audit what it says",
        description=load.DESCRIPTION,
        epilog=load.EPILOG,
    )
    load.add_arguments(load_parser)
    load_parser.set_defaults(run=load.run)
    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def _add_policy(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="say of each file whether it is a good policy, and where it is not")
    check.add_argument("paths", metavar="FILE", nargs="+", type=Path, help="a policy, or a folder of them")
    check.set_defaults(run=_policy_check)
    explain = commands.add_parser("explain", help="show which limits apply to a request, and why")
    explain.add_argument("path", metavar="FILE", type=Path, help="the policy")
    explain.add_argument("--action", required=True, help="what the request wants to do")
    explain.add_argument("--plan", help="the account's plan (default: the policy's default plan)")
    explain.add_argument("--flag", action="append", default=[], metavar="NAME", help="a flag that the account has")
    explain.add_argument(
        "--scope", action="append", default=[], metavar="NAME=VALUE", type=_pair, help="a dimension of the request"
    )
    explain.add_argument(
        "--amount", action="append", default=[], metavar="METER=N", type=_amount, help="units that it asks for"
    )
    explain.set_defaults(run=_policy_explain)
    schema = commands.add_parser("schema", help="print the JSON Schema of policy files, for editors")
    schema.set_defaults(run=_policy_schema)


def _add_store(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    adopt = commands.add_parser(
        "adopt", help="accept a store that came back empty, restored or exchanged: what it lost stays lost"
    )
    settings.add_flags(adopt, _STORE_SETTINGS)
    adopt.set_defaults(run=_adopt)


def _add_tenant(parser: argparse.ArgumentParser, what: str, nargs: str | None = None) -> None:
    parser.add_argument("tenant", metavar="TENANT", nargs=nargs, default="", help=what)
    parser.add_argument("--policy", default="", help="the policy's name, where the server has several")
    _add_address(parser)


def _add_ledger(parser: argparse.ArgumentParser) -> None:
    _add_tenant(parser, "whose ledger")
    parser.add_argument(
        "--export", metavar="FILE", type=Path, help="append the entries to FILE as JSON lines, then drop them"
    )
    parser.set_defaults(run=_ledger)


def _add_reconcile(parser: argparse.ArgumentParser) -> None:
    _add_tenant(parser, "whose balances")
    parser.add_argument("--repair", action="store_true", help="give balances what the ledger and the holds tell")
    parser.add_argument("--reason", metavar="TEXT", default="", help="why it is repaired, for the audit trail")
    parser.set_defaults(run=_reconcile)


def _add_holds(parser: argparse.ArgumentParser) -> None:
    _add_tenant(parser, "whose holds")
    parser.set_defaults(run=_holds)


def _add_release(parser: argparse.ArgumentParser) -> None:
    _add_tenant(parser, "whose hold")
    parser.add_argument("hold", metavar="HOLD", help="its id, as `holdgate holds` shows it")
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, for the audit trail")
    parser.set_defaults(run=_release)


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("limit", metavar="LIMIT", help="its id, as `holdgate usage` shows it")
    parser.add_argument(
        "--scope", action="append", default=[], metavar="NAME=VALUE", type=_pair, help="a dimension that it is kept by"
    )
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why, for the audit trail")
    parser.add_argument(
        "--id", default="", help="the id of a call whose end is not known: what was done under it is not done again"
    )


def _add_reset(parser: argparse.ArgumentParser) -> None:
    _add_tenant(parser, "whose limit")
    _add_limit(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.description = (
        "Forgets what a window has counted, or what is used of a quota in its current cycle; without --scope, of a "
        "quota in every scope. What open holds keep stays theirs. A pool's places are its holds' (`holdgate release`), "
        "a balance is money (`holdgate adjust`)."
    )
    parser.set_defaults(run=_reset)


def _add_adjust(parser: argparse.ArgumentParser) -> None:
    _add_tenant(parser, "whose limit")
    _add_limit(parser)
    change = parser.add_mutually_exclusive_group(required=True)
    change.add_argument(
        "--add", metavar="N", type=_units, help="base units to add, or below 0 to take off: `--add=-50`"
    )
    change.add_argument("--set", metavar="N", type=_units, dest="set_to", help="base units that are used of a quota")
    parser.description = (
        "Changes what is used of a quota in its current cycle, which never falls below 0, or a balance: what is taken "
        "off it is taken as far as it is available, and then as far as it may owe."
    )
    parser.set_defaults(run=_adjust)


def _add_delete(parser: argparse.ArgumentParser) -> None:
    _add_tenant(parser, "who is deleted")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why, for the audit trail")
    parser.add_argument(
        "--force", action="store_true", help="also with open holds, which end as if they had never been"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.description = (
        "Deletes everything of a tenant: account, balances, ledger, holds, use, notes. What operators did to it "
        "stays in the audit trail. Meanwhile it takes nothing new; what was stopped half-way is done by deleting again."
    )
    parser.set_defaults(run=_delete)


def _add_audit(parser: argparse.ArgumentParser) -> None:
    _add_tenant(parser, "about whom, be it gone (default: all tenants of the policy)", nargs="?")
    parser.set_defaults(run=_audit)


def _add_usage(parser: argparse.ArgumentParser) -> None:
    _add_tenant(parser, "whose usage")
    parser.add_argument(
        "--scope", action="append", default=[], metavar="NAME=VALUE", type=_pair, help="a dimension to look at, too"
    )
    parser.set_defaults(run=_usage)


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        default=os.environ.get("HOLDGATE_LISTEN") or settings.Settings.model_fields["listen"].default,
        help="the server's address (default %(default)s; HOLDGATE_LISTEN)",
    )
    add_shown(parser)
    parser.epilog = TOKEN_NOTE


def _add_health(parser: argparse.ArgumentParser) -> None:
    _add_address(parser)
    parser.add_argument("--service", default="", help="one service in place of the server as a whole")
    parser.set_defaults(run=_health)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _amount(text: str) -> tuple[str, int]:
    name, value = _pair(text)
    if not value.isascii() or not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not METER=N with a whole number of base units")
    return name, int(value)


def _units(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,16}", text) or abs(int(text)) > MAX_AMOUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of base units of at most 2^53 - 1")
    return int(text)


def _say(text: str) -> None:
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it is gone, which is no reason for a server to end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    for line in text.splitlines():
        sys.stderr.write(f"holdgate: {line}\n")
