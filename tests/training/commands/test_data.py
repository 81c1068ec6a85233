"""``prepare`` and ``describe`` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.cli import app
from training.data import WindowTable

Write = Callable[..., object]


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_prepare_and_describe(tmp_path: Path, write_record: Write) -> None:
    for i in range(3):
        write_record(tmp_path / "archive" / "north" / str(i), seed=i)
        write_record(tmp_path / "archive" / "south" / str(i), seed=i + 2)
    dataset = str(tmp_path / "d")
    options = ["--rate", "100", "--seconds", "5", "--step", "2.5", "--highpass", "0", "--notch", "0"]
    said = call("prepare", dataset, str(tmp_path / "archive"), *options)
    assert "15 windows of 5 recordings" in said
    assert "duplicate 1" in said
    found = json.loads(call("describe", dataset, "--json"))
    assert list(found["sources"]) == ["north", "south"]
    assert found["preprocessing"] | {"rate": 100, "seconds": 5, "highpass": 0, "notches": [], "step": 2.5, "gain": 1}
    assert found["preprocessing"]["notches"] == []
    assert "15 windows" in call("describe", dataset)
    assert WindowTable.open(Path(dataset)).step == 2.5


def test_named_sources(tmp_path: Path, write_record: Write) -> None:
    write_record(tmp_path / "a" / "ecg" / "1", seed=1)
    write_record(tmp_path / "b" / "ecg" / "1", seed=2)
    given = ["--source", f"north:wfdb={tmp_path}/a/ecg", "--source", f"wfdb={tmp_path}/b/ecg"]
    call("prepare", str(tmp_path / "d"), *given)
    assert WindowTable.open(tmp_path / "d").sources == ("north", "ecg")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to prepare"),
        (["--source", "wfdb"], "not of the form FORMAT=FOLDER"),
        (["--source", "what=."], "there is no format 'what'; take one of ptbxl"),
        (["{tmp}/none"], "there is no folder"),
        (["{tmp}"], "nothing in .* looks like one of the formats"),
    ],
)
def test_errors_are_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    filled = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        call("prepare", str(tmp_path / "d"), *filled)
