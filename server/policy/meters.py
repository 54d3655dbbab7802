"""Meters: how their amounts are written, and how they are sampled."""

from server.domain.metered import DAY_MS, Per, Sampling, Way
from server.domain.policy import Meter, Unit
from server.policy import values
from server.policy.document import Document, Path, shown
from server.policy.schema import MeterModel

SECOND_MS = 1000


def compile_meter(document: Document, path: Path, model: MeterModel) -> Meter:
    """The meter; problems are noted in the document."""
    name = str(path[-1])
    if model.sampled is None:
        for key in ("every", "worth", "times", "per"):
            if key in model.model_fields_set:
                document.reject((*path, key), "belongs to a meter that is `sampled`; leave it out")
        return Meter(name, model.unit, model.per_request)
    if model.unit is not Unit.COUNT or model.per_request:
        document.reject((*path, "sampled"), "a sampled meter is a plain count; leave `unit` and `per_request` out")
    way = Way(model.sampled)
    if way is not Way.LEVEL and "worth" in model.model_fields_set:
        document.reject((*path, "worth"), "belongs to a level; leave it out")
    number, by = (model.per, Per.NOTHING) if isinstance(model.per, int) else (1, Per(model.per))
    sampling = Sampling(way, _slot_ms(document, path, model), model.worth, model.times, number, by)
    return Meter(name, sampling=sampling)


def _slot_ms(document: Document, path: Path, model: MeterModel) -> int:
    """The length of a slot; slots are whole seconds, and fill the days of UTC."""
    at = (*path, "every")
    if model.sampled == "amount":
        if model.every is not None:
            document.reject(at, "an amount has no slots; leave it out")
        return 0
    if model.every is None:
        document.reject(path, f"a {model.sampled} needs `every`, the length of its slots, such as 5m")
        return DAY_MS
    try:
        slot_ms = values.amount(model.every, Unit.DURATION)
    except ValueError as error:
        document.reject(at, str(error))
        return DAY_MS
    if slot_ms == 0 or slot_ms % SECOND_MS or DAY_MS % slot_ms:
        document.reject(at, f"{shown(model.every)} does not fill a day; expected whole seconds, such as 5m, 1h or 1d")
        return DAY_MS
    return slot_ms
