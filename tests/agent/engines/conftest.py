"""A real bundle, small: a narrow DeepECG-SL with random weights, exported as training exports it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torch import Tensor, nn

from agent.core.ecg import LEADS, FloatArray, Provenance, Window
from agent.core.preprocessing import Preprocessing, prepare
from agent.engines.bundles.bundle import UNSIGNED, Bundle, open_bundle
from training.models.kinds import ConvBlock, SLConfig
from training.models.sl import DeepECGSL
from training.publish.export import OPSET, export, onnx_from

LABELS = ("Afib", "Sinusal", "Bradycardia")


class Probabilities(nn.Module):
    """The network with its sigmoid: what a bundle holds."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.net(x))


def entry(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


Change = Callable[[dict[str, Any]], object]
Rewrite = Callable[..., None]


@pytest.fixture(scope="session")
def rewrite() -> Rewrite:
    """Write a folder's manifest anew: fresh checksums, then the changes."""

    def write(folder: Path, *changes: Change) -> None:
        document = json.loads((folder / "manifest.json").read_text())
        document["files"] = {name: entry(folder / name) for name in document["files"]}
        for change in changes:
            change(document)
        (folder / "manifest.json").write_text(json.dumps(document))

    return write


@pytest.fixture(scope="session")
def small_net() -> DeepECGSL:
    """The network of `built`."""
    blocks = (ConvBlock(8, 3), ConvBlock(16, 5, 2), ConvBlock(16, 3, 2, expanded=32), ConvBlock(16, 3, 1, expanded=32))
    net = DeepECGSL(SLConfig(labels=len(LABELS), stem=8, blocks=blocks, tail=32))
    net.initialise(torch.Generator().manual_seed(1))
    return net.eval()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, small_net: DeepECGSL) -> Path:
    """The bundle that every test copies from."""
    folder = tmp_path_factory.mktemp("bundles") / "small"
    folder.mkdir()
    network = Probabilities(small_net).eval()
    batch = torch.export.Dim("batch", min=1, max=256)
    program = torch.export.export(network, (torch.zeros(2, 12, 2500),), dynamic_shapes=({0: batch},))
    openvino.save_model(openvino.convert_model(program), folder / "network.xml", compress_to_fp16=False)

    p = Preprocessing()
    golden = np.random.default_rng(0).normal(0, 0.3, (5, 12, 2500)).astype(np.float32)
    with torch.inference_mode():
        answers = network(torch.from_numpy(prepare(golden, p.rate, p))).numpy()
    np.save(folder / "golden_windows.npy", golden)
    np.save(folder / "golden_probabilities.npy", answers)
    names = ("network.xml", "network.bin", "golden_windows.npy", "golden_probabilities.npy")
    document = {
        "schema_version": 2,
        "name": "small",
        "version": "1",
        "architecture": "deepecg-sl",
        "statement": "A test's network with random weights.",
        "weights_sha256": "0" * 64,
        "input": {"required_leads": ["I", "II"], "preprocessing": p.model_dump()},
        "labels": [{"name": name, "severity": "normal"} for name in LABELS],
        "engines": [
            {
                "flavour": "openvino",
                "precision": "f32",
                "library": openvino.__version__,
                "files": ["network.xml", "network.bin"],
                "parity": {"windows": 5, "probability_max": 1e-6},
            }
        ],
        "golden": {"windows": names[2], "probabilities": names[3], "tolerance": 1e-4},
        "files": {name: entry(folder / name) for name in names},
        "training": {"summary": "none", "datasets": {}, "patients": 0, "windows": 0},
        "change": {"what": "-", "how_tested": "-", "impact": "-"},
    }
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="session")
def sourced(built: Path, small_net: DeepECGSL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with what other engines are compiled from, and the torch-cuda engine that is the ONNX itself."""
    folder = Path(shutil.copytree(built, tmp_path_factory.mktemp("bundles") / "sourced"))
    (folder / "network.onnx").write_bytes(onnx_from(export(small_net, 2500)))
    document = json.loads((folder / "manifest.json").read_text())
    (first,) = document["engines"]
    torch_cuda = {"flavour": "torch-cuda", "library": "torch-cuda 2.13.0", "files": ["network.onnx"]}
    document["engines"].append(first | torch_cuda | {"target": {"kind": "gpu"}, "batches": [1, 2, 4]})
    document["source"] = {"onnx": "network.onnx", "opset": OPSET, "ir": first["files"]}
    document["files"]["network.onnx"] = entry(folder / "network.onnx")
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(built, tmp_path / "small"))


@pytest.fixture(scope="session")
def bundle(built: Path) -> Bundle:
    return open_bundle(built, UNSIGNED)


WindowMaker = Callable[..., Window]


@pytest.fixture(scope="session")
def make_window() -> WindowMaker:
    """A window of noise, the same for the same seed."""

    def make(bed: str = "a/b/1", seed: int = 0, rate: float = 500.0, received: float = 0.0, **changes: Any) -> Window:
        samples: FloatArray = (
            np.random.default_rng(seed).normal(0, 0.5, (len(LEADS), int(10 * rate))).astype(np.float32)
        )
        values: dict[str, Any] = {
            "bed": bed,
            "device": "monitor",
            "generation": 0,
            "start": float(seed),
            "end": seed + 10.0,
            "rate": rate,
            "samples": samples,
            "provenance": (Provenance.MEASURED,) * len(LEADS),
            "received": received,
        }
        return Window(**(values | changes))

    return make
