"""The experiment by command, on a small dataset of the generator's."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.cli import app


def test_what_cannot_be_compared_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.data import WindowTable

    monkeypatch.setattr(WindowTable, "open", classmethod(lambda cls, path: None))

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(
            app, ["label-efficiency", str(tmp_path), "--dataset", "d", "--from", "m", *arguments]
        )
        assert result.exit_code == 1
        return str(result.exception)

    assert "take 0 to 2" in said("--fold", "9")
    assert "no recipe of SSL" in said("--ssl", "demo")
    assert "no recipe 'none'" in said("--sl", "none")
