"""What a newcomer types first is typed here as it is written, but for the ports."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.proxies.quick_starts import GUIDES, Step, follow, steps_of
from tests.rpc.processes import environment, server_process
from tests.stores import ROOT


@pytest.mark.parametrize("guide", ["envoy.md", "nginx.md", "json.md"])
def test_a_proxys_guide_works_as_written(guide: str, tmp_path: Path) -> None:
    if guide == "nginx.md" and shutil.which("nginx", path="/usr/sbin") is None:
        pytest.skip("no nginx; on Debian: apt-get install nginx-light")
    flags = ("--policies", str(GUIDES / "llm.yaml"), "--store", "memory", "--drain-seconds", "0")
    with server_process(tmp_path, *flags) as server:
        (tmp_path / "clone").mkdir()
        follow(guide, tmp_path / "clone", server.address)


def test_the_first_decision_is_the_one_in_the_readme(tmp_path: Path) -> None:
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    promised = block.rpartition("  # ")[2].strip()
    flags = ("--policies", str(ROOT / "policies"), "--store", "memory", "--drain-seconds", "0")
    with server_process(tmp_path, *flags) as server:
        assert "127.0.0.1:50051" in block
        program = block.replace("127.0.0.1:50051", server.address).replace("timeout=1)", "timeout=20)")
        done = subprocess.run(  # noqa: S603  # our own README's words
            [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=True
        )
    assert done.stdout.strip() == promised


def test_the_policy_languages_first_commands_work() -> None:
    text = (ROOT / "docs" / "policies.md").read_text()
    commands = re.findall(r"^    (holdgate policy .*?)(?: {2,}#.*| > .*)?$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        words = [str(ROOT / ".venv/bin/holdgate"), *command.split()[1:]]
        subprocess.run(words, cwd=ROOT, capture_output=True, timeout=60, check=True)  # noqa: S603  # our own words


def test_the_image_is_made_of_every_package() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied, let_in = ((ROOT / name).read_text().splitlines() for name in ("Dockerfile", ".dockerignore"))
    for folder in {package.partition("/")[0] for package in wheel["packages"]}:
        assert f"COPY {folder} {folder}" in copied
        assert f"!{folder}" in let_in


def test_an_answer_other_than_shown_is_seen() -> None:
    step, other = steps_of("```console\n$ curl \\\n    a\nHTTP/1.1 200\n…\nthe end\n$ b\n```\n")
    assert step.command == "curl \\\n    a"
    assert step.is_shown_by("HTTP/1.1 200\r\nx: y\r\nthe end\n")
    assert not step.is_shown_by("HTTP/1.1 429\r\nx: y\r\nthe end\n")
    assert other == Step("b", "")
