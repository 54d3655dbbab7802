"""The JSON Schema of policy files, by which editors complete and check them."""

import json
from typing import Final

from server.policy.schema import PolicyModel

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> str:
    """The schema as JSON text that ends with a newline; the same for the same models."""
    schema = {"$schema": _DIALECT, **PolicyModel.model_json_schema(by_alias=True)}
    return f"{json.dumps(schema, indent=2, ensure_ascii=False)}\n"
