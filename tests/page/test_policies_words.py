"""A policy with words of its own for banners, and one that does not show use yet."""

from pathlib import Path

import pytest
from grpc import aio

from server.bootstrap import running
from server.settings import Settings
from tests.page.conftest import POLICY, TENTH_DAY_MS, Answer, Console
from tests.rpc.conftest import set_time

USAGE = """usage:
  visible: {visible}
  banner_unless: paid
  banners: {{80: {{level: yellow, text: Most of it is gone.}}, 95: {{level: red, text: Nearly all of it is gone.}}}}
"""


async def shown(settings: Settings, folder: Path, units: int, *, visible: str = "true") -> Answer:
    """The page of a tenant that used so much."""
    policy = folder / "console.yaml"
    policy.write_text(POLICY.read_text() + USAGE.format(visible=visible))
    async with (
        running(settings.model_copy(update={"policies": (policy,)})) as app,
        aio.insecure_channel(app.address) as channel,
    ):
        await set_time(channel, TENTH_DAY_MS)
        console = Console(app, channel)
        await console.use(units)
        return await console.get("/?tenant=o1")


@pytest.mark.parametrize(
    ("units", "text"), [(79_999, ""), (80_000, "Most of it is gone."), (95_000, "Nearly all of it is gone.")]
)
async def test_the_banner_has_the_policys_words(page_settings: Settings, tmp_path: Path, units: int, text: str) -> None:
    answer = await shown(page_settings, tmp_path, units)
    assert ('class="banner' in answer.text) is bool(text)
    assert text in answer.text
    assert "reached." not in answer.text


async def test_use_that_is_not_shown_has_a_placeholder_and_no_figures(page_settings: Settings, tmp_path: Path) -> None:
    answer = await shown(page_settings, tmp_path, 85_000, visible="false")
    assert answer.status == 200
    assert "Coming soon" in answer.text
    assert "85,000" not in answer.text
