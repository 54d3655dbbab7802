"""A file for each mistake, with the exact message that it must produce."""

from pathlib import Path

import pytest

from server.domain.errors import PolicyRejectedError
from server.policy.compiler import compile_text

BAD = Path(__file__).parents[1] / "policies" / "bad"
EXPECT = "# expect: "


@pytest.mark.parametrize("path", sorted(BAD.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_mistake_is_named_with_its_line_and_what_was_expected(path: Path) -> None:
    text = path.read_text("utf-8")
    expected = [line.removeprefix(EXPECT) for line in text.splitlines() if line.startswith(EXPECT)]
    with pytest.raises(PolicyRejectedError) as caught:
        compile_text(text, "bad.yaml", {})
    assert caught.value.message.splitlines() == [f"bad.yaml:{line}" for line in expected]


def test_the_corpus_is_there() -> None:
    assert len(list(BAD.glob("*.yaml"))) > 60
