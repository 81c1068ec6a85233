"""``replay`` and ``bench`` as a person types them; the demo has tests of its own (tests/agent/demo)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.bench.measure import BenchError
from agent.cli import app


@pytest.mark.data
def test_replay_runs_a_recording_through_the_line(data_dir: Path) -> None:
    done = CliRunner().invoke(app, ["replay", str(data_dir / "cpsc2021_af" / "data_84_1")])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    assert summary["windows"] >= 100  # 519 s, a window every 5 s
    assert summary["windows_dropped"] == {}
    assert summary["alerts"]["Afib/start"] >= 1


def test_bench_tells_each_figure_and_ends_with_one_line_of_json() -> None:
    done = CliRunner().invoke(app, ["bench", "preprocessing"])
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    numbers = json.loads(line)
    assert set(numbers) == {"machine", "preprocessing"}
    told = done.stderr.split()
    assert told[told.index("preprocessing.windows_per_second") + 1] == str(
        numbers["preprocessing"]["windows_per_second"]
    )


def test_a_section_that_is_not_there() -> None:
    error = CliRunner().invoke(app, ["bench", "sped"]).exception
    assert isinstance(error, BenchError)
