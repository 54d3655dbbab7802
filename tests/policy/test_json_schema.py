"""The schema that editors read."""

import json
from pathlib import Path

from server.policy.json_schema import json_schema

STORED = Path(__file__).parents[2] / "docs" / "policy.schema.json"


def test_the_stored_schema_is_current() -> None:
    """If this fails: holdgate policy schema > docs/policy.schema.json."""
    assert STORED.read_text("utf-8") == json_schema()


def test_the_schema_knows_every_kind_and_refuses_unknown_keys() -> None:
    schema = json.loads(json_schema())
    kinds = {definition.get("properties", {}).get("kind", {}).get("const") for definition in schema["$defs"].values()}
    assert {"guard", "gate", "balance", "window", "slots"} <= kinds
    assert schema["additionalProperties"] is False
