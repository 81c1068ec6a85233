"""The benchmark runs on its small side; its numbers are for people, not for assertions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent import bench
from agent.engines.bundle import default_bundle


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_BEDS", 2)
    monkeypatch.setattr(bench, "_SECONDS", 24)
    monkeypatch.setattr(bench, "_BATCHES", ((1, 2), (2, 1)))
    monkeypatch.setattr(bench, "_ROUNDS", 1)


@pytest.mark.usefixtures("small")
def test_feeds_preprocessing_and_inference() -> None:
    results = bench.run(["feeds", "preprocessing", "inference"])
    assert results["machine"]["cores"] >= 1
    feeds = results["feeds"]
    assert {"mqtt_binary", "mqtt_json", "hl7_ge", "hl7_philips", "hl7_mindray", "hl7_capsule", "hl7_wcm"} <= set(feeds)
    for numbers in feeds.values():
        assert numbers["cpu_ms_per_bed_second"] > 0
        assert numbers["windows"] >= 4
    assert results["preprocessing"]["windows_per_cpu_second"] > 0
    for threads in ("threads_1", "threads_2"):
        assert results["inference"][threads]["batch_2"]["ms_per_window"] > 0
    json.dumps(results)


@pytest.mark.usefixtures("small")
def test_eager_is_compared_in_processes_of_its_own() -> None:
    row = bench.run(["eager"])["eager"]["batch_1"]
    assert row["ratio"] > 0 and row["ratio_of_cpu_time"] > 0
    assert {"eager_1_thread_wall_ms", "eager_2_thread_wall_ms", "engine_1_thread_wall_ms"} <= set(row)


def test_eager_without_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda _: None)
    assert "pip install" in bench.run(["eager"])["eager"]["skipped"]


def test_an_unknown_section_or_bundle_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(bench.BenchError, match="no section 'speed'; choose from feeds"):
        bench.run(["speed"])
    with pytest.raises(bench.BenchError, match="there is no bundle"):
        bench.run(["preprocessing"], tmp_path / "none")
    assert default_bundle().is_dir()
