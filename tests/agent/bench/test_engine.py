"""The bundle's engine, here and in a process of its own."""

from __future__ import annotations

import json
import time

import pytest

from agent.bench import engine
from agent.bench.speed import _ask
from agent.engines.bundles.bundle import default_bundle, open_bundle


def test_inference_by_threads_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_BATCHES", ((1, 2), (2, 1)))
    found = engine.inference(open_bundle(default_bundle()))
    for threads in ("threads_1", "threads_2"):
        assert found[threads]["batch_2"]["ms_per_window"] > 0
    json.dumps(found)


def test_the_process_tells_its_start_memory_and_times() -> None:
    entries = open_bundle(default_bundle()).manifest.engines
    number = str([one.precision for one in entries].index("f32"))  # any processor has it
    path, began = str(default_bundle()), str(time.time())
    told = _ask(["agent.bench.engine", path, number, "1", began, "2", "3"])
    assert told["start_seconds"] > 0
    assert 0 < told["first_mb"] <= told["start_most_mb"]
    assert len(told["batches"]["2"]["wall_ms"]) == 3
