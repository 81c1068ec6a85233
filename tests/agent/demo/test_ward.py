"""The demo as a new user runs it: a process, real time, the shipped bundle, a receiver that acknowledges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

NO_DATA = "/nonexistent"


def demo(cwd: Path, *words: str, data: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "demo", "--port", "0", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=240,
        env={**os.environ, "ECG_DATA": data},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "never the primary alarm" in done.stdout
    summary: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return summary


def sound(summary: dict[str, Any]) -> None:
    """What must hold of every demo, with real recordings and without."""
    assert summary["beds"] == 8
    assert len({transport for transport in summary["beds_by_transport"] if transport.startswith("hl7/")}) >= 3
    assert sum(n for t, n in summary["beds_by_transport"].items() if t.startswith("mqtt/")) == 4
    assert summary["windows_dropped"] == {}
    assert summary["messages_failed"] == 0
    assert summary["latency_prediction_seconds"]["count"] == summary["windows"] > 0
    fibrillating = {
        found["transport"].partition("/")[0]
        for found in summary["findings_by_bed"].values()
        if found["expected"] == "Afib" and "Afib" in found["alerts"]
    }
    assert fibrillating == {"mqtt", "hl7"}
    sinus = [found for found in summary["findings_by_bed"].values() if found["expected"] == "Sinusal"]
    assert len(sinus) >= 4
    assert all(found["alerts"] == [] for found in sinus), sinus
    assert summary["alerts_acknowledged"]["hl7"] >= 2
    assert summary["alerts_acknowledged"]["mqtt"] >= 2
    assert summary["alerts_received"]["mqtt"] >= 2


Start = Callable[[str], Future[dict[str, Any]]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a demo on a folder of data; one that was started before goes on, so that two play in the same minute."""
    running: dict[str, Future[dict[str, Any]]] = {}
    with ThreadPoolExecutor() as pool:

        def begin(data: str) -> Future[dict[str, Any]]:
            if data not in running:
                running[data] = pool.submit(demo, tmp_path_factory.mktemp("demo"), "--seconds", "75", data=data)
            return running[data]

        yield begin


@pytest.mark.data
def test_with_real_recordings(data_dir: Path, start: Start) -> None:
    real, _ = start(str(data_dir)), start(NO_DATA)
    summary = real.result()
    assert summary["beds_synthetic"] == 0
    sound(summary)


def test_without_recordings(start: Start) -> None:
    summary = start(NO_DATA).result()
    assert 0 < summary["beds_synthetic"] < 8  # pydicom's ECG is a real one
    sound(summary)


def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agent.cli", "demo", "--broker", "127.0.0.1:1", "--seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert "no broker answers at 127.0.0.1:1" in done.stderr
