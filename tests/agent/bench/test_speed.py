"""Engines against their peers, on the benchmark's small side; its numbers are for people, not for assertions."""

from __future__ import annotations

import json

import pytest

from agent.bench import speed
from agent.bench.measure import BenchError
from agent.engines.bundles.bundle import default_bundle, open_bundle


def test_engines_and_peers_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_PLANS", {"sl": ((1, 2),)})
    monkeypatch.setattr(speed, "_PEERS", ("eager",))  # the others in tests/training/publish/test_bench_peers.py
    monkeypatch.setattr(speed, "_PEAKS", {"f32": "f32", "bf16": "bf16"})
    monkeypatch.setattr(speed, "_THREADS", (1,))
    monkeypatch.setattr(speed, "_ROUNDS", 1)
    found = speed.speed(open_bundle(default_bundle()))["sl"]
    assert found["parameters"] == 1_508_235
    assert 0.4 < found["gigaflop_per_window"] < 0.6
    row = found["batch_1"]
    assert {"eager", "openvino-f32"} <= set(row["ms"]) == {"eager", *found["start"]}
    fast = row["openvino-f32"]
    assert fast["times_eager"] > 0
    assert fast["share_of_peak"]["1 threads"] > 0
    assert found["start"]["openvino-f32"]["resident_mb"] > 0
    json.dumps(found)


def test_without_torch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "find_spec", lambda _: None)
    assert "pip install" in speed.speed(open_bundle(default_bundle()))["skipped"]


def test_a_peer_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_PLANS", {"none": ((1, 1),)})
    with pytest.raises(BenchError, match="bundle none failed: ValueError: there is no network 'none'"):
        speed.speed(open_bundle(default_bundle()))
