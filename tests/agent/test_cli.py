"""The commands, as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent import __version__


def deepecg(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=240)


def test_every_command_explains_itself_and_says_what_it_is_not(tmp_path: Path) -> None:
    done = deepecg("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "not a medical device" in " ".join(done.stdout.split())
    for command in ("run", "check-config", "send", "demo", "replay", "bench"):
        assert command in done.stdout


def test_version(tmp_path: Path) -> None:
    assert deepecg("version", cwd=tmp_path).stdout.strip() == __version__


def test_the_agent_imports_no_torch(tmp_path: Path) -> None:
    code = "import agent.cli, agent.runtime.daemon, agent.demo.ward, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0


@pytest.mark.data
def test_replay_runs_a_recording_through_the_line(data_dir: Path, tmp_path: Path) -> None:
    done = deepecg("replay", str(data_dir / "cpsc2021_af" / "data_84_1"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    assert summary["windows"] >= 100  # 519 s, a window every 5 s
    assert summary["windows_dropped"] == {}
    assert summary["alerts"]["Afib/start"] >= 1


def test_replay_of_nothing_is_one_sentence(tmp_path: Path) -> None:
    done = deepecg("replay", str(tmp_path / "none"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("deepecg-agent: There is no WFDB header")
