"""The peers of the benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from agent.engines.bundles.bundle import UNSIGNED, open_bundle
from agent.engines.compile import ONNX
from agent.engines.machine import this_machine
from training.evaluation.resources import SAMPLES, macs
from training.models.kinds import ConvBlock, SLConfig
from training.models.sl import DeepECGSL
from training.publish import bench_peers
from training.publish.bench_peers import ENGINES, main, network


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    net = DeepECGSL(SLConfig(stem=8, blocks=(ConvBlock(8, 3), ConvBlock(12, 3, 2, 16)), tail=16))
    net.initialise(torch.Generator().manual_seed(0))
    monkeypatch.setattr(bench_peers, "network", lambda _: net.eval())
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    main(list(arguments))
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_the_bundle_and_every_peer_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bundle"
    about = told(capsys, "bundle", "sl", str(folder))
    bf16 = "avx512_bf16" in this_machine().cpu_features
    assert about["engines"] == list(ENGINES[: 1 + bf16]), "of this network hardly anything is a matrix product"
    manifest = open_bundle(folder, UNSIGNED).manifest
    assert [f"{one.flavour}-{one.precision}" for one in manifest.engines] == about["engines"]
    assert ONNX in manifest.files
    for kind, plan in (("eager", {"1": 2, "2": 1}), ("compiled", {"1": 1}), ("onnxruntime", {"1": 2, "2": 1})):
        words = [word for batch, repeats in plan.items() for word in (batch, str(repeats))]
        found = told(capsys, kind, "sl", str(folder), "1", *words)["batches"]
        assert isinstance(found, dict)
        assert {batch: len(times["wall_ms"]) for batch, times in found.items()} == plan
        assert all(ms > 0 for measured in found.values() for times in measured.values() for ms in times)


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_the_peak(capsys: pytest.CaptureFixture[str], precision: str) -> None:
    found = told(capsys, "peak", precision, "1")["gigaflops"]
    assert isinstance(found, float)
    assert found > 0


def test_the_published_sizes() -> None:
    sl = network("sl")
    assert sum(p.numel() for p in sl.parameters()) == 1_508_235
    assert 0.4e9 < 2 * macs(sl, SAMPLES) < 0.6e9  # multiply-accumulates count twice in FLOP
    assert sum(p.numel() for p in network("ssl").parameters()) == 90_432_461
    with pytest.raises(ValueError, match="take sl or ssl"):
        network("vgg")


def test_anything_else_is_told_how_to_ask() -> None:
    with pytest.raises(SystemExit, match="bench_peers peak bf16"):
        main(["fast"])
