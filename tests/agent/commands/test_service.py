"""``check-config`` in this process; ``run`` as a service is in tests/agent/runtime/test_daemon.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli import app
from agent.config import ConfigError, reference


def test_a_good_file_is_called_good_and_the_reference_is_one(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(CliRunner().invoke(app, ["check-config", "--reference"]).stdout, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == reference()
    result = CliRunner().invoke(app, ["check-config", str(file)])
    assert (result.exit_code, result.stdout) == (0, f"{file}: good\n")


@pytest.mark.parametrize(
    ("words", "said"), [(["check-config"], "name the file"), (["run", "--config", "none.toml"], "cannot be read")]
)
def test_without_a_configuration_nothing_starts(words: list[str], said: str) -> None:
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, ConfigError)
    assert said in str(error)
