"""Plays every story of tests/scenarios on memory, on a real store, and over gRPC; see tests/scenarios/README.md.

`make story SYSTEM=credit-gate` plays one system; `-k credit-gate-5-` one story; `-k redis` one backend.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.scenario.backends import BACKENDS, backend
from tests.scenario.player import play
from tests.scenario.story import Story, stories_of

FILES = sorted(Path(__file__).with_name("scenarios").glob("*.yaml"))


def played(*names: str) -> Sequence[object]:
    """Every story on every one of these backends."""
    return [
        pytest.param(story, name, id=f"{story.system}-{story.number}-{name}: {story.name}")
        for file in FILES
        for story in stories_of(file)
        for name in names
    ]


@pytest.mark.parametrize(("story", "name"), played(*BACKENDS))
async def test_story(story: Story, name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = None if name == "memory" else request.getfixturevalue("valkey")
    async with backend(name, story, store, tmp_path) as opened:
        await play(story, opened)
