"""The usage page over HTTP: what it shows, what it refuses, what it forbids a browser."""

from pathlib import Path

import pytest

from server.bootstrap import StartError, running
from server.settings import Settings, SettingsError, from_flags
from tests.page.conftest import Console


async def test_a_tenant_is_shown_with_all_that_it_has(console: Console) -> None:
    await console.open_account("o1")
    await console.use(40_000)
    await console.take("compute", "h2", cu=500)
    await console.take("call", "")
    await console.take("buy", "h3", credits=30)
    answer = await console.get("/?policy=console&tenant=o1&scope.project=p1")
    assert answer.status == 200
    for text in (
        "<title>o1 · Holdgate usage</title>",
        "plan free",
        "as of 2026-04-11 00:00:00 UTC",
        "<strong>40,000</strong> of 100,000 cu used, 500 more held",
        "2026-04-01 to 2026-05-01, resets in 20 d",
        "Projected 120,000 by 2026-05-01; used up 2026-04-26 00:00:00 UTC (medium confidence)",
        "Compute of a project (project p1)",
        'aria-valuetext="1 of 10"',
        "<code>h2</code>",
        "500 cu",
        "<td>opening</td>",
        '<td class="number">+500</td>',
    ):
        assert text in answer.text, text


async def test_who_waits_for_a_place_is_counted(console: Console) -> None:
    waiting = '<td class="number">{} of 3</td>'
    assert waiting.format(0) in (await console.get("/?tenant=o1")).text
    for number in range(3):
        await console.take("render", f"r{number}")
    answer = await console.get("/?tenant=o1")
    assert answer.status == 200
    assert waiting.format(2) in answer.text
    assert 'aria-valuetext="1 of 1"' in answer.text
    assert '<div class="small bar red"' in answer.text


async def test_a_balance_that_has_fallen_to_a_threshold_has_a_banner(console: Console) -> None:
    await console.open_account("o1")
    banners = {
        300: None,
        150: "banner yellow",  # 50 left, of marks at 100 and 20
        40: "banner amber",
        10: "banner red",
    }
    words = {150: "Down to 100. </strong>Credits: 50 credits left.", 40: "Down to 20. ", 10: "nothing is left."}
    for units, banner in banners.items():
        await console.spend(units)
        answer = await console.get("/?tenant=o1")
        assert ("banner" in answer.text) is (banner is not None)
        assert (banner or "") in answer.text
        assert words.get(units, "") in answer.text


async def test_a_tenant_of_which_nothing_is_known_has_empty_bars(console: Console) -> None:
    answer = await console.get("/?tenant=nobody")
    assert answer.status == 200
    assert "<strong>0</strong> of 100,000 cu used" in answer.text
    assert 'class="banner' not in answer.text
    assert "Open holds" not in answer.text
    assert "Ledger" not in answer.text


async def test_the_part_that_changes_is_had_alone(console: Console) -> None:
    await console.use(1)
    whole, part = await console.get("/?tenant=o1"), await console.get("/live?tenant=o1")
    assert part.status == 200
    assert part.text in whole.text
    assert not part.text.startswith("<!doctype")


@pytest.mark.parametrize(
    ("target", "status", "told"),
    [
        ("/?policy=nope&tenant=o1", 400, "nope"),
        ("/?tenant=o1&scope.color=red", 400, "color"),
        (f"/?tenant={'x' * 129}", 400, "tenant"),
        ("/?tenant=%00", 400, "tenant"),
        ("/favicon.ico", 404, "the page at /"),
        ("/page.css/..", 404, "the page at /"),
    ],
)
async def test_what_cannot_be_shown_is_said(console: Console, target: str, status: int, told: str) -> None:
    answer = await console.get(target)
    assert (answer.status, told in answer.text) == (status, True)


async def test_more_than_can_be_asked_for_is_said(console: Console) -> None:
    answer = await console.get("/?tenant=o1&" + "&".join(f"scope.d{number}=x" for number in range(64)))
    assert (answer.status, answer.text) == (400, "The address asks for more than 64 things.")


async def test_the_page_is_only_read(console: Console) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert (await console.get("/?tenant=o1", method=method)).status == 405
    head, get = await console.get("/?tenant=o1", method="HEAD"), await console.get("/?tenant=o1")
    assert (head.status, head.text, head.headers["content-length"]) == (200, "", get.headers["content-length"])


@pytest.mark.parametrize("target", ["/", "/?tenant=o1", "/live?tenant=o1", "/page.css", "/page.js", "/none"])
async def test_a_browser_is_forbidden_whatever_the_page_does_not_need(console: Console, target: str) -> None:
    headers = (await console.get(target)).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"


async def test_no_script_or_style_stands_in_the_page(console: Console) -> None:
    text = (await console.get("/?tenant=o1")).text
    assert text.count("<script") == 1
    assert '<script src="page.js" defer></script>' in text
    assert "style=" not in text
    assert "<style" not in text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
async def test_on_loopback_a_foreign_name_is_not_answered_to(console: Console, host: str) -> None:
    assert (await console.get("/?tenant=o1", host=host or "x")).status == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]", "[::1]:8080"])
async def test_on_loopback_its_own_names_are(console: Console, host: str) -> None:
    assert (await console.get("/?tenant=o1", host=host)).status == 200


async def test_a_server_has_no_page_unless_it_is_told_to(page_settings: Settings) -> None:
    async with running(page_settings.model_copy(update={"page_address": ""})) as app:
        assert app.page_address == ""
        assert "page" not in app.describe()


async def test_a_port_that_is_in_use_stops_the_start(console: Console, page_settings: Settings) -> None:
    taken = page_settings.model_copy(update={"page_address": console.app.page_address})
    with pytest.raises(StartError, match=f"--page-address: cannot listen on {console.app.page_address}"):
        async with running(taken):
            pass


@pytest.mark.parametrize("address", ["8080", "localhost", "127.0.0.1:x", ":8080"])
def test_an_address_has_a_host_and_a_port(address: str) -> None:
    with pytest.raises(SettingsError, match="expected host:port"):
        from_flags({"page_address": address})


def test_workers_share_a_page_whose_port_is_named(tmp_path: Path) -> None:
    flags = {"workers": "2", "data_dir": str(tmp_path)}
    assert from_flags({**flags, "page_address": "127.0.0.1:8080"}).page_address == "127.0.0.1:8080"
    with pytest.raises(SettingsError, match="name the port"):
        from_flags({**flags, "page_address": "127.0.0.1:0"})
