"""The policies in force: loaded whole, replaced whole, never by a bad one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import time
from types import MappingProxyType

from server.domain.account import Account
from server.domain.allowances import QuotaLooks, quota_looks
from server.domain.errors import InvalidRequestError, PolicyRejectedError
from server.domain.operation import TenantRef
from server.domain.policy import Policy
from server.domain.queue import QueueTerms, queue_terms
from server.domain.refill import BalanceTerms, balance_terms
from server.policy.compiler import compile_text
from server.policy.document import MAX_TEXT_BYTES
from server.policy.knobs import KnobSource


class PolicyStore:
    """Policies by name. `load` makes one; readers always see one complete set."""

    def __init__(self, paths: Sequence[Path], knobs: KnobSource, policies: Mapping[str, Policy]) -> None:
        self._paths = tuple(paths)
        self._knobs = knobs
        self._policies = policies
        self.beside: Callable[[], object] = lambda: None
        """Reads what is kept beside the policies, and puts it to use; where either is bad, both stay as they are."""
        self.loaded_at_s = time()
        self.rejected = ""
        """What was wrong with the files when they were read last; empty for what is in force."""

    @classmethod
    def load(cls, paths: Sequence[Path], knobs: KnobSource) -> "PolicyStore":
        """Reads each file, and each `*.yaml` of each directory; raises PolicyRejectedError if any is bad."""
        return cls(paths, knobs, load_policies(paths, knobs))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all policies, sorted."""
        return tuple(sorted(self._policies))

    def get(self, name: str) -> Policy:
        """The policy of that name; the empty name means the only one there is.

        Raises InvalidRequestError for a name that is unknown or missing.
        """
        policies = self._policies
        if not name and len(policies) == 1:
            return next(iter(policies.values()))
        policy = policies.get(name)
        if policy is None:
            problem = f"there is no policy {name!r}" if name else "is missing and the server has several"
            raise InvalidRequestError.of("policy", f"{problem}; it has {', '.join(sorted(policies))}")
        return policy

    def refills(self, ref: TenantRef, account: Account, at_ms: int) -> BalanceTerms:
        """The terms of a tenant's balances, by the policy that decides now; InvalidRequestError for an unknown one."""
        return balance_terms(self.get(ref.policy), account, at_ms)

    def looks(
        self, ref: TenantRef, account: Account | None, now_ms: int, cells: Iterable[tuple[str, tuple[str, ...]]]
    ) -> QuotaLooks:
        """Which of a tenant's cells to look at for thresholds, by the policy that decides now;
        InvalidRequestError for an unknown one.
        """
        return quota_looks(self.get(ref.policy), ref, account, now_ms, cells)

    def queues(self, ref: TenantRef, account: Account | None, at_ms: int) -> QueueTerms:
        """A tenant's pools with queues, by the policy that decides now; InvalidRequestError for an unknown policy."""
        return queue_terms(self.get(ref.policy), ref, account, at_ms)

    def check(self, text: str) -> Policy:
        """A policy text compiled with the settings in force, and not used; PolicyRejectedError if it is bad."""
        return compile_text(text, "policy", self._knobs.read())

    def reload(self) -> Mapping[str, str]:
        """Reads everything again and replaces all policies at once; returns their versions by name.

        Raises PolicyRejectedError and keeps what is in force if anything is bad.
        """
        try:
            policies = load_policies(self._paths, self._knobs)
            self.beside()
        except PolicyRejectedError as error:
            self.rejected = error.message
            raise
        self._policies = policies
        self.rejected = ""
        self.loaded_at_s = time()
        return {name: policy.version for name, policy in self._policies.items()}


def policy_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The files that `paths` stand for; raises PolicyRejectedError for a directory without policies."""
    files: list[Path] = []
    for path in paths:
        try:
            path.stat()
            found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        except FileNotFoundError:
            raise PolicyRejectedError(f"{path}: there is no such file or folder") from None
        except OSError as error:
            raise PolicyRejectedError(f"{path}: cannot be read: {error}") from error
        if not found:
            raise PolicyRejectedError(f"{path}: the directory has no *.yaml file")
        files += found
    return tuple(dict.fromkeys(files))


def read_text(path: Path) -> str:
    """A policy file's text; raises PolicyRejectedError if it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise PolicyRejectedError(f"{path}: cannot be read: {error}") from error
    if len(content) > MAX_TEXT_BYTES:
        raise PolicyRejectedError(f"{path}: larger than {MAX_TEXT_BYTES} bytes")
    return text


def read_policies(paths: Sequence[Path], knobs: KnobSource) -> dict[Path, Policy | PolicyRejectedError]:
    """What each file of `paths` is: a policy, or why not. A name that an earlier file has is a reason too.

    Raises PolicyRejectedError if there is no file, or if the knobs cannot be read.
    """
    values = knobs.read()
    found: dict[Path, Policy | PolicyRejectedError] = {}
    origins: dict[str, Path] = {}
    for path in policy_files(paths):
        try:
            policy = compile_text(read_text(path), str(path), values)
        except PolicyRejectedError as error:
            found[path] = error
            continue
        origin = origins.setdefault(policy.name, path)
        problem = f"{path}: policy {policy.name} is in {origin} too; keep one"
        found[path] = policy if origin == path else PolicyRejectedError(problem)
    if not found:
        raise PolicyRejectedError("no policy file was named; name at least one")
    return found


def load_policies(paths: Sequence[Path], knobs: KnobSource) -> Mapping[str, Policy]:
    """All policies of `paths` by name; raises PolicyRejectedError with the problems of all files."""
    found = read_policies(paths, knobs).values()
    problems = [error.message for error in found if isinstance(error, PolicyRejectedError)]
    if problems:
        raise PolicyRejectedError("\n".join(problems))
    return MappingProxyType({policy.name: policy for policy in found if isinstance(policy, Policy)})
