"""Every key, spelled once. Lua builds keys in one include (`lua/include/keys.lua`) and nowhere else.

All keys of a tenant share the hash tag `{policy/tenant}`, so that one script may touch them on a cluster. The index
of tenants by earliest due lives in the same slot: its tag is the smallest number whose slot is the tenant's.

    hg:{p/t}:cells      hash        v (account version), due (earliest lease end), standing cells
    hg:{p/t}:acct       string      account record, JSON
    hg:{p/t}:ids        hash        account writes already made: id -> fingerprint, units changed
    hg:{p/t}:grants     hash        balances that change with time: when, and what was done last
    hg:{p/t}:ledger     stream      movements of money, 0-1, 0-2, …
    hg:{p/t}:trimmed    hash        a balance's totals at its last entry that is no longer in the ledger
    hg:{p/t}:due        sorted set  open holds by lease end; in place of a hold, what else time brings (NO_HOLDS)
    hg:{p/t}:h:<id>     string      hold or tombstone
    hg:{p/t}:w:<scope>  hash        window cells of one scope
    hg:{p/t}:u:<day>    hash        samples of use, by record of their slots; amounts by id
    hg:{p/t}:alloc      hash        what stands: allocation -> units per cell of a count
    hg:{p/t}:note       stream      notes for the tenant's people: thresholds that were crossed
    hg:{p/t}:told       string      id of the last note that the webhook has told
    hg:{<slot>}:due     sorted set  tenants of a slot by earliest due
    hg:{<slot>}:noted   sorted set  tenants of a slot with notes that the webhook has not told, by the oldest
    hg:{<slot>}:acts    stream      what operators did to the slot's tenants, also to those that are gone
    hg:{webhook}:lease  string      which process tells the webhook
    hg:{webhook}:since  string      when there first was a webhook: what was noted before is not told
    hg:{walks}:walked   hash        for which terms all tenants of a policy were looked at last
    hg:{walks}:by:<p>   string      which process looks at all tenants of a policy

    hg:{p/t}:q:<cell>   sorted set  holds that wait for a place of a pool, by order of arrival
    hg:{p/t}:pools      string      whose turn is next, while anybody waits (lua/include/queues.lua)

Watchers are woken over the channel hg:noted, with the tenant's member; open calls that wait over hg:turn:<process>,
with the tenant's member and the hold.
"""

from binascii import crc_hqx
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from server.domain.errors import CorruptStateError
from server.domain.operation import TenantRef
from server.domain.plan import CheckForm

SLOTS: Final = 16384
EPOCH_KEY: Final = b"hg:epoch"
NOTED_CHANNEL: Final = b"hg:noted"
TURN_CHANNEL: Final = b"hg:turn:"
WEBHOOK_LEASE: Final = b"hg:{webhook}:lease"
WEBHOOK_SINCE: Final = b"hg:{webhook}:since"
WALKED: Final = b"hg:{walks}:walked"


GRANTS_DUE: Final = ""
LIMITS_DUE: Final = "\x01"
NO_HOLDS: Final = frozenset({GRANTS_DUE, LIMITS_DUE})
"""What is due besides holds: a change of grants, a change of an allowance with thresholds. No hold has such an id."""


class TenantKeys(NamedTuple):
    """The fixed keys of one tenant. `prefix` starts all others, `member` names it in the index."""

    prefix: bytes
    cells: bytes
    account: bytes
    ids: bytes
    ledger: bytes
    due: bytes
    due_index: bytes
    member: bytes

    @property
    def fixed(self) -> tuple[bytes, ...]:
        """KEYS of a script that is about no hold."""
        return (self.cells, self.account, self.due, self.due_index)

    def hold(self, hold_id: str) -> bytes:
        """The key of a hold."""
        return self.prefix + b"h:" + hold_id.encode()

    @property
    def notes(self) -> bytes:
        """The key of the notes."""
        return self.prefix + b"note"

    @property
    def told(self) -> bytes:
        """The key of how far the webhook has come."""
        return self.prefix + b"told"

    @property
    def noted(self) -> bytes:
        """The key of the slot's index of tenants with notes to tell."""
        return self.due_index.removesuffix(b"due") + b"noted"

    @property
    def acts(self) -> bytes:
        """The key of the slot's audit trail."""
        return self.due_index.removesuffix(b"due") + b"acts"

    def windows(self, scope: str) -> bytes:
        """The key of the window cells of one scope."""
        return self.prefix + b"w:" + scope.encode()


def _quoted(text: str) -> str:
    return quote(text, safe=" @+!*")


@lru_cache(maxsize=65_536)
def tenant_keys(ref: TenantRef) -> TenantKeys:
    """The keys of a tenant."""
    member = f"{_quoted(ref.policy)}/{_quoted(ref.tenant)}".encode()
    prefix = b"hg:{" + member + b"}:"
    return TenantKeys(
        prefix=prefix,
        cells=prefix + b"cells",
        account=prefix + b"acct",
        ids=prefix + b"ids",
        ledger=prefix + b"ledger",
        due=prefix + b"due",
        due_index=index_key(crc_hqx(member, 0) % SLOTS),
        member=member,
    )


def tenant_of(member: bytes) -> TenantRef:
    """The tenant that an index member names; CorruptStateError if it names none."""
    policy, slash, tenant = member.decode(errors="replace").partition("/")
    if not slash:
        raise CorruptStateError(f"the index of tenants has a member that names no tenant: {member!r}; remove it")
    return TenantRef(unquote(policy), unquote(tenant))


def cells_of_policy(policy: str) -> bytes:
    """The pattern of the cells' keys of all tenants of a policy, whose name has nothing that a pattern knows."""
    return b"hg:{" + policy.encode() + b"/*}:cells"


def tenant_of_cells(key: bytes) -> TenantRef:
    """The tenant whose cells these are."""
    return tenant_of(key.removeprefix(b"hg:{").removesuffix(b"}:cells"))


def walker(policy: str) -> bytes:
    """The key of who walks over a policy's tenants."""
    return b"hg:{walks}:by:" + policy.encode()


@lru_cache(maxsize=1)
def _slot_tags() -> tuple[bytes, ...]:
    """For each slot the smallest number, in decimal, that hashes to it."""
    tags: dict[int, bytes] = {}
    number = 0
    while len(tags) < SLOTS:
        text = str(number).encode()
        tags.setdefault(crc_hqx(text, 0) % SLOTS, text)
        number += 1
    return tuple(tags[slot] for slot in range(SLOTS))


def index_key(slot: int) -> bytes:
    """The key of the index of tenants by earliest due, for one slot."""
    return b"hg:{" + _slot_tags()[slot] + b"}:due"


def index_keys() -> Iterable[bytes]:
    """All index keys."""
    return (index_key(slot) for slot in range(SLOTS))


def noted_keys() -> Iterable[bytes]:
    """The keys of the indexes of tenants with notes to tell, for all slots."""
    return (key.removesuffix(b"due") + b"noted" for key in index_keys())


def acts_keys() -> Iterable[bytes]:
    """The keys of the audit trails of all slots."""
    return (key.removesuffix(b"due") + b"acts" for key in index_keys())


def scope_text(check: CheckForm) -> str:
    """The scope of a window's key: its dimensions with their values; empty for the tenant as a whole."""
    return ",".join(f"{name}={_quoted(value)}" for name, value in zip(check.limit.scope, check.scope, strict=True))


def cell_of(field: str) -> tuple[str, tuple[str, ...]]:
    """The cell's name and the values of its dimensions, from what `standing_field` made of them."""
    cell, *values = field.split(":")
    return cell, tuple(map(unquote, values))


def standing_field(check: CheckForm) -> str:
    """The field of a standing cell: the cell's name, and the values of its dimensions."""
    return ":".join([check.limit.cell, *map(_quoted, check.scope)])
