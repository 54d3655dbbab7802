"""Plays golden transcripts: ADDRESS RUN [--ca FILE [--cert FILE --key FILE]] TRANSCRIPT…; see ../golden/README.md."""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import yaml
from google.protobuf import json_format, message_factory
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status
from holdgate import Tls
from quota.v1 import admin_service_pb2, quota_service_pb2, test_clock_service_pb2

SERVICES = {
    service.full_name: service
    for module in (quota_service_pb2, admin_service_pb2, test_clock_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}
TIMEOUT_S = 10


def main() -> int:
    """Plays every transcript; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("run")
    parser.add_argument("transcripts", nargs="+", type=Path)
    for name in ("--ca", "--cert", "--key"):
        parser.add_argument(name, type=Path)
    chosen = parser.parse_args()
    passed = failed = 0
    with open_channel(chosen.address, chosen.ca, chosen.cert, chosen.key) as channel:
        for path in chosen.transcripts:
            steps = yaml.safe_load(path.read_text().replace("<run>", chosen.run))
            for number, step in enumerate(steps, 1):
                answer = outcome(channel, step["call"], step["request"])
                print(json.dumps({"transcript": path.stem, "step": number, "answer": answer}))
                expected = {"answer": step["answer"]} if "answer" in step else {"error": step["error"]}
                differences = list(differing(expected, answer, f"{path.stem}: step {number}"))
                for difference in differences:
                    print(difference, file=sys.stderr)
                passed, failed = (passed, failed + 1) if differences else (passed + 1, failed)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def open_channel(address: str, ca: Path | None, cert: Path | None, key: Path | None) -> grpc.Channel:
    """A connection, over TLS where authorities are named."""
    if ca is None:
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, Tls(ca, cert, key).credentials())


def outcome(channel: grpc.Channel, call: str, request: dict[str, Any]) -> dict[str, Any]:
    """What one call came to, as JSON: {"answer": …} or {"error": …}."""
    service, _, name = call.partition("/")
    method = SERVICES[service].methods_by_name[name]
    message = json_format.ParseDict(request, message_factory.GetMessageClass(method.input_type)())
    response = message_factory.GetMessageClass(method.output_type)
    ask = channel.unary_unary(f"/{call}", type(message).SerializeToString, response.FromString)
    try:
        return {"answer": json_format.MessageToDict(ask(message, timeout=TIMEOUT_S))}
    except grpc.RpcError as error:
        return {"error": failure(cast("grpc.Call", error))}


def failure(error: grpc.Call) -> dict[str, Any]:
    """Status and details of a call that failed."""
    told: dict[str, Any] = {"code": error.code().name, "reason": "", "fields": [], "says": error.details()}
    status = rpc_status.from_call(error)
    info, bad = ErrorInfo(), BadRequest()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            told["reason"] = info.reason
        elif detail.Unpack(bad):
            told["fields"] = [violation.field for violation in bad.field_violations]
    return told


def differing(expected: object, found: object, at: str) -> Iterator[str]:
    """Where an answer is not what was expected, one line each."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name, value in expected.items():
            yield from differing(value, found.get(name), f"{at}.{name}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for place, pair in enumerate(zip(expected, found, strict=True)):
            yield from differing(*pair, f"{at}[{place}]")
    elif at.endswith(".says"):
        if text(expected) not in text(found):
            yield f"{at}: expected {expected!r} within {found!r}"
    elif text(expected) != text(found) and number(expected) != number(found):
        yield f"{at}: expected {text(expected)}, found {text(found)}"


def text(value: object) -> str:
    """A value as JSON writes it; a number as its text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def number(value: object) -> float:
    """The number that a value is, or whose text it is; NaN, which equals nothing, for anything else."""
    try:
        return float(text(value))
    except ValueError:
        return math.nan


if __name__ == "__main__":
    sys.exit(main())
