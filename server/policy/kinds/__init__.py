"""The YAML form of each limit kind. A new kind is a module here and a line below."""

from typing import Annotated

from pydantic import Field

from server.policy.kinds.balance import BalanceModel
from server.policy.kinds.count import CountModel
from server.policy.kinds.gate import GateModel
from server.policy.kinds.guard import GuardModel
from server.policy.kinds.quota import QuotaModel
from server.policy.kinds.slots import SlotsModel
from server.policy.kinds.window import WindowModel

AnyLimit = Annotated[
    GuardModel | GateModel | QuotaModel | BalanceModel | CountModel | WindowModel | SlotsModel,
    Field(discriminator="kind"),
]
"""One entry of `limits`, told apart by its `kind`."""

__all__ = [
    "AnyLimit",
    "BalanceModel",
    "CountModel",
    "GateModel",
    "GuardModel",
    "QuotaModel",
    "SlotsModel",
    "WindowModel",
]
