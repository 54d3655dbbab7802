"""Reads the policies again when the operator says so (SIGHUP)."""

from server.domain.errors import PolicyRejectedError
from server.logs import log
from server.policy.store import PolicyStore


def reload_policies(policies: PolicyStore) -> None:
    """Puts the files' policies to use; where one is bad, all stay as they are and the log says which line."""
    try:
        versions = policies.reload()
    except PolicyRejectedError as error:
        log.error("policy.rejected", errors=error.message.splitlines())
    else:
        log.info("policy.reloaded", versions=dict(versions))
