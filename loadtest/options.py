"""The arguments of the command line."""

import argparse
from typing import Final

from loadtest.callers import CALLERS
from loadtest.mix_text import shipped
from server.reaching import add_shown

DEFAULT_CALLERS: Final = 16
ENDINGS: Final = ("settle", "release", "abandon")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser all arguments of a run."""
    _add_target(parser.add_argument_group("what to load"))
    _add_load(parser.add_argument_group("how much load"))
    _add_requests(parser.add_argument_group("what to ask"))
    _add_output(parser.add_argument_group("what comes out"))


def _add_target(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--target", default="127.0.0.1:50051", metavar="HOST:PORT", help="server (default %(default)s)")
    group.add_argument(
        "--i-own-this-target",
        action="store_true",
        help="load a server that is not on this machine. Load slows a server down for everybody else, and takes "
        "real quota from its store: do this only where that is yours to decide",
    )
    add_shown(group)
    group.add_argument(
        "--via", choices=list(CALLERS), default="unary", help="how operations travel (default %(default)s)"
    )
    group.add_argument(
        "--batch", type=int, default=32, metavar="N", help="with --via batch: most in a message (default %(default)s)"
    )
    group.add_argument("--connections", type=int, default=4, metavar="N", help="per process (default %(default)s)")
    group.add_argument("--processes", type=int, default=1, metavar="N", help="that bring load (default %(default)s)")


def _add_load(group: argparse._ArgumentGroup) -> None:
    pace = group.add_mutually_exclusive_group()
    pace.add_argument(
        "--callers",
        type=int,
        metavar="N",
        help=f"closed loop: N callers, each asks again when answered (default {DEFAULT_CALLERS})",
    )
    pace.add_argument(
        "--rate",
        type=float,
        metavar="N",
        help="open loop: N decisions per second, whatever becomes of the earlier ones; latency counts from when each "
        "was due",
    )
    group.add_argument(
        "--in-flight", type=int, default=4096, metavar="N", help="open loop: requests at once (default %(default)s)"
    )
    group.add_argument("--duration", metavar="TIME", help="of measuring, such as 60s (default 10s, with --count 10m)")
    group.add_argument("--count", type=int, metavar="N", help="end after N measured decisions")
    group.add_argument(
        "--warm-up", default="2s", metavar="TIME", help="before measuring; not in the figures (default %(default)s)"
    )
    group.add_argument("--timeout", default="5s", metavar="TIME", help="of one call (default %(default)s)")


def _add_requests(group: argparse._ArgumentGroup) -> None:
    asked = group.add_mutually_exclusive_group()
    names = ", ".join(shipped())
    asked.add_argument("--mix", metavar="FILE", help=f"YAML file, or one of: {names} (default quickstart)")
    asked.add_argument(
        "--request",
        action="append",
        metavar="WORDS",
        help="a kind of request, such as 'chat tokens=100..900 @model=small +v-fast:video_ms=5000 *3'; may be repeated",
    )
    group.add_argument("--policy", help="the policy's name (default the mix's, or the server's only one)")
    group.add_argument("--tenants", type=int, default=100, metavar="N", help="how many (default %(default)s)")
    group.add_argument(
        "--spread", default="uniform", help="over the tenants: uniform, zipf:1.1 or hot:0.5 (default %(default)s)"
    )
    for ending in ENDINGS:
        default = 1.0 if ending == "settle" else 0.0
        group.add_argument(
            f"--{ending}", type=float, metavar="WEIGHT", help=f"share of holds to {ending} (default {default:g})"
        )
    group.add_argument("--hold", metavar="TIME", help="to keep a hold: 50ms, 50ms..2s or 'mean 200ms' (default 0s)")
    group.add_argument("--delivered", metavar="SHARE", help="of a settled hold: 1, or 0.25..1 (default 1)")
    group.add_argument(
        "--repeats", type=float, default=0.0, metavar="SHARE", help="of operations sent twice (default %(default)s)"
    )
    group.add_argument("--setup", action="store_true", help="create an account for every tenant before the load")
    group.add_argument("--plan", help="the accounts' plan (default the mix's)")
    group.add_argument(
        "--opening", action="append", default=[], metavar="METER=N", help="their opening balance; may be repeated"
    )
    group.add_argument("--flag", action="append", default=[], metavar="NAME", help="a flag that they have")
    group.add_argument("--seed", type=int, help="draws the same requests again (default a new one)")


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--json", metavar="FILE", help="write the report as JSON")
    group.add_argument("--html", metavar="FILE", help="write the report as a page with plots")
    group.add_argument("--no-audit", action="store_true", help="do not compare the server's figures with the callers'")
    group.add_argument(
        "--unaudited",
        action="append",
        default=[],
        metavar="LIMIT",
        help="leave this limit out of the audit: one with `room`, say, that asks for units and takes none",
    )
