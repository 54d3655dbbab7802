"""Compares an answer with what a story expects of it.

Only what is named is compared: a mapping lists some of the fields, a list is the whole list (in any order where the
answer has none), a JSON body is compared in full, and `absent` says that there is nothing.
"""

from collections.abc import Iterator, Mapping

from tests.scenario.answers import ABSENT, Fields, Whole
from tests.scenario.quantities import number
from tests.scenario.reading import Value


def differences(expected: Value, actual: object, t0_ms: int, path: str = "") -> Iterator[str]:
    """What is not as expected, one line each; numbers may be written as `30s`, `$3.00`, `T0+60`."""
    if isinstance(expected.data, dict) and isinstance(actual, Mapping):
        yield from _in_mapping(expected.data, actual, t0_ms, path)
    elif not _matches(expected, actual, t0_ms):
        shown = actual.data if isinstance(actual, Whole) else actual
        yield f"{expected.where}: {path or 'the answer'}: expected {expected.plain()!r}, was {shown!r}"


def _matches(expected: Value, actual: object, t0_ms: int) -> bool:
    match expected.data, actual:
        case "absent", _:
            return actual is ABSENT
        case _, Whole(data):
            return same(expected.plain(), data)
        case list(names), frozenset():
            return {name.plain() for name in names} == actual
        case str(written), int() if not isinstance(actual, bool):
            try:
                return number(written, t0_ms) == actual
            except ValueError as error:
                raise expected.error(str(error)) from error
    return same(expected.plain(), actual)


def same(expected: object, actual: object) -> bool:
    """Equal as JSON: 1 is not true, and 30 is 30.0."""
    match expected, actual:
        case dict(), dict():
            return expected.keys() == actual.keys() and all(same(expected[key], actual[key]) for key in expected)
        case list(), list():
            return len(expected) == len(actual) and all(map(same, expected, actual))
        case bool(), _:
            return expected is actual
        case _, bool():
            return False
    return expected == actual


def _in_mapping(expected: Mapping[str, Value], actual: Mapping[str, object], t0_ms: int, path: str) -> Iterator[str]:
    for key, value in expected.items():
        at = f"{path}.{key}" if path else key
        if isinstance(actual, Fields) and key not in actual:
            yield f"{value.where}: {at} is no field of the answer, which has: {', '.join(actual)}"
        else:
            yield from differences(value, actual.get(key, ABSENT), t0_ms, at)
