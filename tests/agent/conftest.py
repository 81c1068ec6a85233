"""A bundle whose engines can be compiled on any machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core.preprocessing import Preprocessing, prepare
from agent.engines.bundles.bundle import Bundle, open_bundle
from agent.engines.bundles.signing import sign, write_public_key
from agent.engines.settings import EngineSettings
from agent.ops.metrics import Metrics

WARD_LABELS = ("Afib", "Sinusal", "Bradycardia")
_EVIDENCE = {"auroc": 0.9, "lower": 0.8, "upper": 1.0, "positive_patients": 20, "negative_patients": 20}
_RULE = {
    "threshold": 0.5,
    "release": 0.45,
    "open_after": 2,
    "close_after": 2,
    "priority": "PM",
    "false_alerts_per_bed_day": 0.0,
    "false_alerts_upper": 1.0,
    "negative_hours": 10.0,
}


@pytest.fixture(scope="session")
def ward_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the IR of a small network of matrix products, golden windows and its answers to them."""
    folder = tmp_path_factory.mktemp("ward") / "network"
    folder.mkdir()
    # Of this seed no answer is nearer than 0.3 to a threshold: int8 weights flip none, in whatever a processor adds up.
    op, rng = openvino.opset13, np.random.default_rng(25)
    x = op.parameter([-1, 12, 2500], np.float32)
    first = op.constant((rng.normal(0, 1, (30_000, 64)) / 30).astype(np.float32))
    second = op.constant(rng.normal(0, 0.5, (64, len(WARD_LABELS))).astype(np.float32))
    flat = op.reshape(x, op.constant(np.array([-1, 30_000], np.int64)), special_zero=False)
    hidden = op.tanh(op.matmul(flat, first, transpose_a=False, transpose_b=False))
    model = openvino.Model([op.sigmoid(op.matmul(hidden, second, transpose_a=False, transpose_b=False))], [x])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    p = Preprocessing()
    golden = rng.normal(0, 0.3, (5, 12, 2500)).astype(np.float32)
    np.save(folder / "golden_windows.npy", golden)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.save(folder / "golden_probabilities.npy", compiled(prepare(golden, p.rate, p))[0])
    return folder


@dataclass(frozen=True)
class Publisher:
    """Writes bundles of `ward_network`, signed by a key of its own."""

    network: Path
    folder: Path
    key: Ed25519PrivateKey
    public: Path

    def settings(self, **changes: Any) -> EngineSettings:
        return EngineSettings(**({"trusted_keys": (self.public,)} | changes))

    def write(self, name: str = "ward", **changes: Any) -> Path:
        """By default an int8w engine for a processor that nobody has, and f32 for every one."""
        folder = Path(shutil.copytree(self.network, self.folder / name))
        f32 = {
            "flavour": "openvino",
            "precision": "f32",
            "library": "openvino",
            "files": ["model.xml", "model.bin"],
            "target": {"kind": "cpu"},
            "parity": {"windows": 5, "probability_max": 1e-6},
        }
        elsewhere = f32 | {"precision": "int8w", "target": {"kind": "cpu", "cpu_features": ["no_such_feature"]}}
        document = {
            "schema_version": 2,
            "name": name,
            "version": "1",
            "architecture": "test",
            "statement": "A test's network with random weights.",
            "weights_sha256": "0" * 64,
            "input": {"required_leads": ["I", "II"], "preprocessing": Preprocessing().model_dump()},
            "labels": [
                {"name": label, "severity": "pathological", "evidence": _EVIDENCE, "rule": _RULE if not i else None}
                for i, label in enumerate(WARD_LABELS)
            ],
            "engines": [elsewhere, f32],
            "source": {"ir": ["model.xml", "model.bin"]},
            "golden": {"windows": "golden_windows.npy", "probabilities": "golden_probabilities.npy", "tolerance": 1e-4},
            "limits": {"flips_share": 0.05, "probability_p999": 0.15, "probability_max": 0.3, "logit_max": 1e-3},
            "files": {
                file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size": file.stat().st_size}
                for file in sorted(folder.iterdir())
            },
            "training": {"summary": "none", "datasets": {}, "patients": 0, "windows": 0},
            "change": {"what": "-", "how_tested": "-", "impact": "-"},
        }
        content = json.dumps(document | changes).encode()
        (folder / "manifest.json").write_bytes(content)
        (folder / "manifest.sig").write_bytes(sign(content, self.key))
        return folder

    def open(self, name: str = "ward", **changes: Any) -> Bundle:
        return open_bundle(self.write(name, **changes), self.settings().trust())


@pytest.fixture
def publisher(ward_network: Path, tmp_path: Path) -> Publisher:
    key = Ed25519PrivateKey.generate()
    folder = tmp_path / "published"
    folder.mkdir()
    write_public_key(folder / "publisher.pub", key.public_key())
    return Publisher(ward_network, folder, key, folder / "publisher.pub")


# ---- what was counted --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sample() -> Callable[..., float]:
    """``sample(metrics, name, **labels)``: a metric's value; zero of labels that nothing was counted for yet.

    Fails where there is no such metric, or none of such labels: a renamed one does not pass for zero.
    """

    def value(metrics: Metrics, name: str, **labels: str) -> float:
        found = metrics.registry.get_sample_value(name, labels)
        if found is not None:
            return found
        collector = metrics.registry._names_to_collectors.get(name)
        assert collector is not None, f"there is no metric {name}"
        assert {*collector._labelnames} == {*labels}, f"{name} has the labels {collector._labelnames}"
        return 0.0

    return value


@pytest.fixture(scope="session")
def every_way() -> Callable[..., list[list[bytes]]]:
    """The pieces in which a stream may come: whole, byte by byte, by threes, and with ``trailing`` bytes behind it."""

    def _cut(stream: bytes, trailing: bytes) -> list[list[bytes]]:
        by = [[stream[i : i + size] for i in range(0, len(stream), size)] for size in (1, 3)]
        return [[stream], *by, [stream + trailing]]

    return _cut
