"""The policies in force: loaded whole, replaced whole, kept when the new ones are bad."""

from pathlib import Path

import pytest

from server.domain.errors import InvalidRequestError, PolicyRejectedError
from server.policy.document import MAX_TEXT_BYTES
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from tests.policy.texts import SHOP, shop_text

OTHER = shop_text(policy="other")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "shop.yaml").write_text(SHOP, "utf-8")
    return folder


def load(*paths: Path) -> PolicyStore:
    return PolicyStore.load(paths, KnobSource())


def test_files_and_folders_are_loaded(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.policy"
    other.write_text(OTHER, "utf-8")
    (folder / "notes.txt").write_text("not a policy", "utf-8")
    assert load(folder, other).names == ("other", "shop")


def test_a_file_named_twice_is_loaded_once(folder: Path) -> None:
    assert load(folder, folder / "shop.yaml").names == ("shop",)


def test_the_only_policy_needs_no_name(folder: Path) -> None:
    store = load(folder)
    assert store.get("") is store.get("shop")


def test_one_of_several_policies_must_be_named(folder: Path) -> None:
    (folder / "other.yaml").write_text(OTHER, "utf-8")
    with pytest.raises(InvalidRequestError, match="is missing and the server has several; it has other, shop"):
        load(folder).get("")


def test_an_unknown_policy_is_the_callers_mistake(folder: Path) -> None:
    with pytest.raises(InvalidRequestError, match="policy: there is no policy 'shoop'; it has shop"):
        load(folder).get("shoop")


def test_two_files_with_one_name_are_an_error(folder: Path) -> None:
    (folder / "twin.yaml").write_text(SHOP, "utf-8")
    with pytest.raises(PolicyRejectedError) as caught:
        load(folder)
    assert caught.value.message == f"{folder}/twin.yaml: policy shop is in {folder}/shop.yaml too; keep one"


def test_the_problems_of_all_files_are_reported(folder: Path) -> None:
    (folder / "a.yaml").write_text("policy: a\n", "utf-8")
    (folder / "b.yaml").write_text("[", "utf-8")
    with pytest.raises(PolicyRejectedError) as caught:
        load(folder)
    lines = caught.value.message.splitlines()
    assert {Path(line.split(":")[0]).name for line in lines} == {"a.yaml", "b.yaml"}


@pytest.mark.parametrize(
    ("content", "problem"), [(b"\xff", "cannot be read"), (b"#" * (MAX_TEXT_BYTES + 1), "larger than")]
)
def test_what_is_no_text_is_an_error(folder: Path, content: bytes, problem: str) -> None:
    (folder / "shop.yaml").write_bytes(content)
    with pytest.raises(PolicyRejectedError, match=problem):
        load(folder)


def test_no_file_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(PolicyRejectedError, match="there is no such file or folder"):
        load(tmp_path / "none.yaml")
    with pytest.raises(PolicyRejectedError, match=r"cannot be read: .* too long"):
        load(tmp_path / ("x" * 300))
    with pytest.raises(PolicyRejectedError, match=r"the directory has no \*.yaml file"):
        load(tmp_path)
    with pytest.raises(PolicyRejectedError, match="no policy file was named"):
        load()


def test_a_reload_replaces_all_and_tells_the_versions(folder: Path) -> None:
    store = load(folder)
    before = store.get("shop")
    (folder / "shop.yaml").write_text(SHOP.replace("limit: 30", "limit: 40"), "utf-8")
    (folder / "other.yaml").write_text(OTHER, "utf-8")
    assert store.get("shop") is before
    versions = store.reload()
    after = store.get("shop")
    assert after.limits[0].values.constant == 40
    assert versions == {"shop": after.version, "other": store.get("other").version}
    assert after.version != before.version


@pytest.mark.parametrize("bad", [SHOP + "extra: 1\n", "", SHOP.replace("policy: shop", "policy: third")])
def test_a_bad_reload_keeps_every_good_policy(folder: Path, bad: str) -> None:
    (folder / "third.yaml").write_text(shop_text(policy="third"), "utf-8")
    store = load(folder)
    before = {name: store.get(name) for name in store.names}
    (folder / "third.yaml").write_text(OTHER, "utf-8")
    (folder / "shop.yaml").write_text(bad, "utf-8")
    (folder / "z.yaml").write_text(bad, "utf-8")
    with pytest.raises(PolicyRejectedError):
        store.reload()
    assert {name: store.get(name) for name in store.names} == before


def test_a_reload_reads_the_knobs_anew_and_a_bad_one_keeps_the_last_good(tmp_path: Path) -> None:
    path, settings = tmp_path / "p.yaml", tmp_path / "settings"
    path.write_text(SHOP.replace("limit: 30", 'limit: "${RPM:-30}"'), "utf-8")
    settings.write_text("RPM=50\n", "utf-8")
    store = PolicyStore.load([path], KnobSource({"RPM": "99"}, settings))
    assert store.get("").limits[0].values.constant == 50
    settings.write_text("RPM=plenty\n", "utf-8")
    with pytest.raises(PolicyRejectedError, match=r"p.yaml:8: limits\[0\].limit: 'plenty'.*RPM is 'plenty'"):
        store.reload()
    assert store.get("").limits[0].values.constant == 50
    settings.write_text("RPM=60\n", "utf-8")
    store.reload()
    assert store.get("").limits[0].values.constant == 60
