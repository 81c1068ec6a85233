"""Engines against their peers, on the benchmark's small side; its numbers are for people, not for assertions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from agent.bench import engine, speed
from agent.bench.measure import BenchError, Numbers
from agent.engines.bundles.bundle import default_bundle, open_bundle
from training.models.kinds import ConvBlock, SLConfig
from training.models.sl import DeepECGSL
from training.publish import bench_peers


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Peers and engines of a tiny network, in this process: what each does in its own is in `test_engine` and
    `test_bench_peers`."""
    net = DeepECGSL(SLConfig(stem=8, blocks=(ConvBlock(8, 3), ConvBlock(12, 3, 2, 16)), tail=16))
    net.initialise(torch.Generator().manual_seed(0))
    monkeypatch.setattr(bench_peers, "network", lambda _: net.eval())
    monkeypatch.setattr(bench_peers, "peak", lambda precision, threads: 100.0 * threads + len(precision))
    threads = torch.get_num_threads()

    def ask(command: Sequence[str]) -> Numbers:
        told = io.StringIO()
        with redirect_stdout(told):
            {speed._MODULE: bench_peers.main, "agent.bench.engine": engine.main}[command[0]](list(command[1:]))
        found: Numbers = json.loads(told.getvalue().splitlines()[-1])
        return found

    monkeypatch.setattr(speed, "_ask", ask)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("here")
def test_engines_and_peers_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_PLANS", {"sl": ((1, 2),)})
    monkeypatch.setattr(speed, "_PEERS", ("eager",))  # the others in tests/training/publish/test_bench_peers.py
    monkeypatch.setattr(speed, "_THREADS", (1,))
    monkeypatch.setattr(speed, "_ROUNDS", 1)
    found = speed.speed(open_bundle(default_bundle()))["sl"]
    assert found["parameters"] > 1000
    assert found["gigaflop_per_window"] >= 0
    assert found["peak_gigaflops"] == {"f32, 1 threads": 103.0, "bf16, 1 threads": 104.0, "int8, 1 threads": 104.0}
    row = found["batch_1"]
    assert {"eager", "openvino-f32"} <= set(row["ms"]) == {"eager", *found["start"]}
    fast = row["openvino-f32"]
    assert fast["times_eager"] > 0
    assert fast["share_of_peak"]["1 threads"] >= 0
    assert found["start"]["openvino-f32"]["resident_mb"] > 0
    json.dumps(found)


def test_without_torch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "find_spec", lambda _: None)
    assert "pip install" in speed.speed(open_bundle(default_bundle()))["skipped"]


def test_a_process_that_fails_is_one_sentence(tmp_path: Path) -> None:
    command = ["agent.bench.engine", str(tmp_path / "none"), "0", "1", "0"]
    with pytest.raises(BenchError, match=r"the process agent\.bench\.engine .*none 0 failed: .*there is no bundle at"):
        speed._ask(command)
