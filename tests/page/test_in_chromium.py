"""The usage page as people see it: colours at each threshold, live, readable, on any window, without scripts too."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.page.chromium import Browser, Rgb, Tab, needs_chromium
from tests.page.conftest import Console

pytestmark = needs_chromium

GREEN: Final[Rgb] = (26, 127, 75)
AMBER: Final[Rgb] = (217, 138, 0)
RED: Final[Rgb] = (198, 47, 47)
TRACK: Final[Rgb] = (230, 233, 238)
NO_BANNER: Final[Rgb] = (246, 247, 249)
YELLOW_BANNER: Final[Rgb] = (255, 246, 204)
AMBER_BANNER: Final[Rgb] = (255, 228, 184)
RED_BANNER: Final[Rgb] = (251, 217, 215)

BOX: Final = "(({x, y, width, height}) => [x, y, width, height])(document.querySelector('%s').getBoundingClientRect())"
TEXT: Final = "document.querySelector('%s')?.textContent"

READABLE: Final = 4.5
"""The contrast that text needs against its ground, by WCAG 2 AA."""


async def places(tab: Tab, selector: str, shares: list[float]) -> list[tuple[float, float]]:
    """Points on the middle line of an element, at these shares of its width."""
    x, y, width, height = await tab.value(BOX % selector)
    return [(x + width * share, y + height / 2) for share in shares]


class Sight(NamedTuple):
    """Use, and what is seen of it: the bar's colour, the banner's ground, and its words."""

    used: int
    colour: Rgb
    ground: Rgb | None
    told: str


SIGHTS: Final = [
    Sight(79_999, GREEN, None, ""),
    Sight(80_000, AMBER, YELLOW_BANNER, "80% reached. Compute: 80% of the allowance is used, 80,000 of 100,000 cu."),
    Sight(94_999, AMBER, YELLOW_BANNER, "80% reached. Compute: 94% of the allowance is used, 94,999 of 100,000 cu."),
    Sight(95_000, RED, AMBER_BANNER, "95% reached. Compute: 95% of the allowance is used, 95,000 of 100,000 cu."),
    Sight(99_999, RED, AMBER_BANNER, "95% reached. Compute: 99% of the allowance is used, 99,999 of 100,000 cu."),
    Sight(100_000, RED, RED_BANNER, "100% reached. Compute: the allowance is used up, 100,000 of 100,000 cu."),
]


@pytest.mark.parametrize("sight", SIGHTS, ids=lambda sight: str(sight.used))
async def test_bar_and_banner_have_the_colours_of_their_thresholds(
    console: Console, chromium: Browser, tmp_path: Path, sight: Sight
) -> None:
    used, colour, ground, told = sight
    await console.use(used)
    tab = await chromium.tab()
    await tab.go(console.url())
    share = used / 100_000
    bar = await places(tab, ".bar svg", [0.3, share - 0.03, min(share + 0.005, 0.96)])
    seen = bar if ground is None else [*bar, *(await places(tab, ".banner", [0.97]))]
    start, end, behind, *banner = await (await tab.screenshot(tmp_path / "page.png")).pixels(seen)
    assert (start, end) == (colour, colour)
    if used < 95_000:
        assert behind == TRACK
    assert banner == ([] if ground is None else [ground])
    assert (await tab.value(TEXT % ".banner") or "") == told
    assert await tab.value(TEXT % ".percent") == f"{used // 1000}%"
    assert tab.complaints == []


async def test_what_is_held_is_paler_and_the_projection_is_a_line(
    console: Console, chromium: Browser, tmp_path: Path
) -> None:
    await console.use(20_000)
    await console.take("compute", "h2", cu=20_000)
    tab = await chromium.tab()
    await tab.go(console.url())
    used, held, free, line = await (await tab.screenshot(tmp_path / "page.png")).pixels(
        await places(tab, ".bar svg", [0.1, 0.3, 0.5, 0.6])
    )
    assert (used, free) == (GREEN, TRACK)
    assert all(GREEN[part] < held[part] < TRACK[part] for part in range(3))
    assert line == (27, 33, 41)
    meter = "document.querySelector('[role=meter]').getAttribute('aria-valuetext')"
    assert await tab.value(meter) == "20%: 20,000 of 100,000 cu used, 20,000 held, projected 60,000"
    assert await tab.value(TEXT % ".projection") == "Projected 60,000 by 2026-05-01 (medium confidence)"


async def test_the_page_goes_on_by_itself(console: Console, chromium: Browser) -> None:
    await console.use(79_000)
    tab = await chromium.tab()
    await tab.go(console.url())
    assert await tab.value(TEXT % ".percent") == "79%"
    await tab.value("window.unchanged = true")
    await console.use(16_000, "h2")
    await tab.until("document.querySelector('.percent').textContent === '95%'")
    await tab.until("document.querySelector('#live').textContent === 'live'")
    assert await tab.value("window.unchanged")
    assert await tab.value("document.querySelector('.banner').className") == "banner amber"
    assert tab.complaints == []


async def test_what_has_not_changed_is_left_alone(console: Console, chromium: Browser) -> None:
    """So that nothing is read out again, and no marked text is lost, every two seconds."""
    await console.use(80_000)
    await console.take("compute", "h2", cu=10)
    tab = await chromium.tab()
    await tab.go(console.url())
    parts = "[...document.querySelectorAll('.banner, section')]"
    await tab.value(f"{parts}.forEach((part) => {{ part.known = true; }})")
    await tab.value("document.querySelector('#holds').parentElement.querySelector('[tabindex]').focus()")
    await console.take("compute", "h3", cu=10)
    await tab.until("document.querySelectorAll('td code').length === 2")
    assert await tab.value(f"{parts}.map((part) => [part.className || part.firstChild.id, part.known === true])") == [
        ["banner yellow", True],
        ["quotas", False],
        ["limits", True],
        ["holds", False],
        ["values", True],
    ]
    assert await tab.value("document.activeElement.closest('section').getAttribute('aria-labelledby')") == "holds"


async def test_a_part_that_is_no_longer_there_leaves(console: Console, chromium: Browser) -> None:
    await console.take("compute", "h1", cu=10)
    tab = await chromium.tab()
    await tab.go(console.url())
    assert await tab.value("!!document.querySelector('#holds')")
    await console.release("h1")
    await tab.until("!document.querySelector('#holds')")
    sections = "[...document.querySelectorAll('section')].map((part) => part.firstChild.id)"
    assert await tab.value(sections) == ["quotas", "limits", "values"]


async def test_a_page_that_is_not_live_any_more_says_so_and_keeps_its_figures(
    console: Console, chromium: Browser
) -> None:
    await console.use(12_000)
    tab = await chromium.tab()
    await tab.go(console.url())
    await tab.call("Network.enable")
    line = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await tab.call("Network.emulateNetworkConditions", offline=True, **line)
    await tab.until("document.querySelector('#live').textContent === 'not live: the server does not answer'")
    assert await tab.value(TEXT % ".percent") == "12%"
    await tab.call("Network.emulateNetworkConditions", offline=False, **line)
    await tab.until("document.querySelector('#live').textContent === 'live'")


async def test_the_page_is_read_without_scripts(console: Console, chromium: Browser) -> None:
    await console.use(80_000)
    tab = await chromium.tab(scripts=False)
    await tab.go(console.url())
    assert await tab.value(TEXT % ".percent") == "80%"
    assert await tab.value("document.querySelector('#live').hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_stands_out_from_its_ground(
    console: Console, chromium: Browser, tmp_path: Path, scheme: str
) -> None:
    await console.open_account("o1")
    await console.use(95_000)
    await console.take("compute", "h2", cu=10)
    await console.take("call", "")
    tab = await chromium.tab(dark=scheme == "dark")
    await tab.go(console.url(project="p1"))
    found: list[dict[str, Any]] = await tab.value(
        """[...document.querySelectorAll("h1,h2,h3,p,strong,span,td,th,code,label,button,input")].map((element) => {
             let ground = element;
             const see = (each) => getComputedStyle(each).backgroundColor;
             while (see(ground) === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
             return {text: element.textContent, colour: getComputedStyle(element).color, ground: see(ground)};
           })"""
    )
    await tab.screenshot(tmp_path / "page.png")
    assert len(found) > 50
    assert [each for each in found if contrast(rgb(each["colour"]), rgb(each["ground"])) < READABLE] == []
    assert (sum(rgb(await tab.value("getComputedStyle(document.body).backgroundColor"))) < 200) == (scheme == "dark")


def rgb(text: str) -> Rgb:
    red, green, blue = text.removeprefix("rgb(").removesuffix(")").split(",")
    return int(red), int(green), int(blue)


def contrast(one: Rgb, other: Rgb) -> float:
    """By WCAG 2."""

    def luminance(colour: Rgb) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("width", [320, 390, 768, 1600])
async def test_no_window_is_too_narrow(console: Console, chromium: Browser, tmp_path: Path, width: int) -> None:
    await console.open_account("o1")
    await console.use(60_000)
    await console.take("compute", "a-hold-with-a-rather-long-id-" * 3, cu=10)
    tab = await chromium.tab(width=width)
    await tab.go(console.url(project="p1"))
    await tab.screenshot(tmp_path / "page.png")
    assert await tab.value("document.documentElement.scrollWidth") <= width


async def test_the_form_leads_to_a_tenant(console: Console, chromium: Browser) -> None:
    await console.use(12_000, tenant="ümläut & co")
    tab = await chromium.tab()
    await tab.go(f"http://{console.app.page_address}/")
    assert "name a tenant" in str(await tab.value(TEXT % "main"))
    await tab.value("document.querySelector('[name=tenant]').value = 'ümläut & co'")
    await tab.value("document.querySelector('[name=\"scope.project\"]').value = 'p1'")
    await tab.value("document.querySelector('form').requestSubmit()")
    await tab.until("document.querySelector('h1')?.textContent === 'ümläut & co'")
    assert await tab.value("[...document.querySelectorAll('h3')].map((each) => each.textContent)") == [
        "Compute12%",
        "Compute of a project (project p1)",
    ]
    assert tab.complaints == []


async def test_names_that_look_like_html_are_names(console: Console, chromium: Browser) -> None:
    odd = "<img src=x onerror=alert(1)>&amp;\"'"
    await console.take("compute", odd, odd, project="</code><script>alert(1)</script>", cu=10)
    tab = await chromium.tab()
    await tab.go(console.url(odd, project="</code><script>alert(1)</script>"))
    assert await tab.value(TEXT % "h1") == odd
    assert await tab.value(TEXT % "td code") == odd
    assert await tab.value("document.querySelectorAll('main img, main script').length") == 0
    assert tab.complaints == []
