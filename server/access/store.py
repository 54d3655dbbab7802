"""The callers in force: loaded whole, replaced whole, never by a bad file."""

from collections.abc import Collection, Sequence
from pathlib import Path

from server.access.callers import Caller, Callers
from server.access.callers_file import read_callers


class CallerStore:
    """The callers of one file. `methods` are all that there are; `asks_certificates` whether callers must show one."""

    def __init__(self, path: Path, methods: Collection[str], *, asks_certificates: bool) -> None:
        """Reads the file; raises PolicyRejectedError."""
        self._path = path
        self._methods = frozenset(methods)
        self._asks_certificates = asks_certificates
        self._callers = Callers(())
        self.reload()

    def reload(self) -> None:
        """Reads the file again; raises PolicyRejectedError and keeps what is in force if it is bad."""
        self._callers = read_callers(self._path, self._methods, asks_certificates=self._asks_certificates)

    def who(self, token: str | None, certificate_names: Sequence[str]) -> Caller:
        """Who it is that shows this; raises UnauthenticatedError."""
        return self._callers.who(token, certificate_names)
