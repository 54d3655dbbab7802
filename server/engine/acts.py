"""The audit trail as it is stored: `lua/include/acts.lua` writes it."""

from collections.abc import Sequence

import msgpack

from server.domain.act import Act, AuditLine, Deed
from server.domain.errors import CorruptStateError
from server.engine import keys
from server.engine.sequences import pack, unpack


def packed_act(act: Act) -> bytes:
    """What a script stores of an act."""
    return pack(list(act))


def line_of(line_id: bytes, flat: Sequence[bytes]) -> AuditLine:
    """The line that an entry's id and its fields with their values tell."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        deed, *texts = unpack(fields[b"a"])
        at_ms, member, before, after = unpack(fields[b"e"])
        act = Act(Deed(deed), *(text.decode() for text in texts))
        own = act._replace(before=act.before or before.decode(), after=act.after or after.decode())
        return AuditLine(line_id.decode(), at_ms, keys.tenant_of(member), own)
    except (KeyError, ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise CorruptStateError(f"line {line_id!r} of the audit trail is not readable: {error!r}") from error
