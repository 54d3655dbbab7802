"""Notes as entries of a stream; `lua/include/notes.lua` writes them."""

from collections.abc import Sequence

from server.domain.errors import CorruptStateError
from server.domain.note import Note
from server.engine import keys


def note_of(note_id: bytes, flat: Sequence[bytes]) -> Note:
    """The note that an entry's id and its fields with their values tell."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        cell, scope = keys.cell_of(fields[b"cell"].decode())
        if b"mark" in fields:
            at_ms, mark, left = (int(fields[name]) for name in (b"at", b"mark", b"left"))
            return Note(note_id.decode(), at_ms, cell, scope, 0, 0, 0, 0, mark=mark, left=left)
        at_ms, cycle_ms, percent, limit, used = (
            int(fields[name]) for name in (b"at", b"cycle", b"percent", b"limit", b"used")
        )
        ends_ms = int(fields.get(b"ends", 0))
    except (KeyError, ValueError) as error:
        raise CorruptStateError(f"note {note_id!r} is not readable: {error!r}") from error
    return Note(note_id.decode(), at_ms, cell, scope, cycle_ms, percent, limit, used, ends_ms)
