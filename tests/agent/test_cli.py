"""The commands' door: what is listed, what is imported for it, and what is said of mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent import __version__
from agent.cli import BUNDLE, COMMANDS
from agent.ops.cli import Command, load

EACH = {
    **{name: entry for name, entry in COMMANDS.items() if isinstance(entry, Command)},
    **{f"bundle {name}": entry for name, entry in BUNDLE.commands.items()},
}


def deepecg(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=240)


@pytest.mark.parametrize("name", EACH)
def test_the_list_says_of_each_command_what_its_docstring_begins_with(name: str) -> None:
    text = " ".join((load(EACH[name]).__doc__ or "").split())
    assert text.startswith(EACH[name].help.removesuffix("."))


def test_help_names_every_command_says_what_this_is_not_and_imports_no_library(tmp_path: Path) -> None:
    code = (
        "import sys; from agent.cli import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('numpy', 'pydantic', 'aiohttp', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    words = " ".join(done.stdout.split())
    assert "not a medical device" in words
    for name, entry in COMMANDS.items():
        assert f" {name} {entry.help}" in words
    assert words.endswith("[]")


def test_version(tmp_path: Path) -> None:
    assert deepecg("version", cwd=tmp_path).stdout.strip() == __version__


def test_a_mistake_is_one_sentence(tmp_path: Path) -> None:
    done = deepecg("replay", str(tmp_path / "none"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("deepecg-agent: There is no WFDB header")


def test_the_agent_imports_no_torch(tmp_path: Path) -> None:
    code = "import agent.cli, agent.runtime.daemon, agent.demo.ward, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0
