"""The line's parts from a configuration: further models with the shipped bundle under other names."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.config import Config
from agent.core.ecg import Prediction, Provenance, Window
from agent.engines.bundles.bundle import default_bundle
from agent.engines.bundles.signing import sign, write_public_key
from agent.engines.bundles.store import Store
from agent.ops.metrics import Metrics
from agent.runtime.build import Parts, StartError, open_parts

VERSION = json.loads((default_bundle() / "manifest.json").read_text())["version"]
Change = Callable[[dict[str, Any], Path], None]
Publish = Callable[..., Path]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """The shipped bundle as another model's, signed by a key that the configurations of `config` trust."""
    key = Ed25519PrivateKey.generate()
    write_public_key(tmp_path / "publisher.pub", key.public_key())

    def make(name: str, change: Change | None = None) -> Path:
        folder = Path(shutil.copytree(default_bundle(), tmp_path / name))
        document = json.loads((folder / "manifest.json").read_text())
        document["name"] = name
        if change is not None:
            change(document, folder)
        content = json.dumps(document).encode()
        (folder / "manifest.json").write_bytes(content)
        (folder / "manifest.sig").write_bytes(sign(content, key))
        return folder

    return make


def for_a_gpu(document: dict[str, Any], _: Path) -> None:
    for engine in document["engines"]:
        engine |= {"flavour": "torch-cuda", "target": {"kind": "gpu"}}


def without_rules(document: dict[str, Any], _: Path) -> None:
    document["labels"] = [label | {"rule": None} for label in document["labels"]]


def of_five_seconds(document: dict[str, Any], folder: Path) -> None:
    document["input"]["preprocessing"]["seconds"] = 5.0
    file = folder / document["golden"]["windows"]
    np.save(file, np.load(file)[:, :, :1250])
    content = file.read_bytes()
    document["files"][file.name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def config(folder: Path, *models: dict[str, object], **tables: dict[str, object]) -> Config:
    engine = {"trusted_keys": [folder / "publisher.pub"]} | tables.pop("engine", {})
    state = {"state_dir": folder}
    return Config.model_validate({"agent": state, "engine": engine, "models": models, **tables})


def window(bundle: Path) -> Window:
    samples = np.load(bundle / "golden_windows.npy")[0]
    return Window("a/b/1", "m", 0, 0.0, 10.0, 250.0, samples, (Provenance.MEASURED,) * 12, time.monotonic())


async def look(parts: Parts, bundle: Path, count: int) -> dict[str, Prediction]:
    async with asyncio.timeout(60):
        while not all(state.engine or state.problem for state in parts.batcher.states()):
            await asyncio.sleep(0.02)
        parts.batcher.submit(window(bundle))
        found: list[Prediction] = []
        while len(found) < count:
            found += await anext(parts.batcher)
    return {p.model: p for p in found}


async def test_further_models_look_at_the_same_window(tmp_path: Path, publish: Publish) -> None:
    ssl, lvef = publish("ssl"), publish("lvef")
    settings = config(tmp_path, {"bundle": ssl, "every": 5, "alerts": True}, {"bundle": lvef, "once": True})
    async with open_parts(settings, Metrics(), (), tmp_path, remember=True) as parts:
        assert [m.name for m in parts.further] == ["ssl", "lvef"]
        assert parts.missing == {}
        found = await look(parts, ssl, 3)
        golden = np.load(ssl / "golden_probabilities.npy")[0]
        assert set(found) == {f"deepecg-sl-demo/{VERSION}", f"ssl/{VERSION}", f"lvef/{VERSION}"}
        for prediction in found.values():
            np.testing.assert_allclose(
                prediction.probabilities, golden, atol=0.1
            )  # of the first engine that fits, perhaps bf16
        assert parts.alerting.on_prediction(found[f"lvef/{VERSION}"], 0.0) == ()
        assert parts.alerting.take_suppressed() == {}, "it was not told to alert"
        line = parts.line(Metrics(), None)
        assert (line.batcher, line.alerting) == (parts.batcher, parts.alerting)
    assert Store(tmp_path, settings.engine).state().highest == {"ssl": VERSION, "lvef": VERSION}


async def test_a_recording_leaves_no_trace_in_the_store(tmp_path: Path, publish: Publish) -> None:
    settings = config(tmp_path, {"bundle": publish("ssl"), "every": 5})
    async with open_parts(settings, Metrics(), (), tmp_path, remember=False) as parts:
        await look(parts, tmp_path / "ssl", 2)
    assert Store(tmp_path, settings.engine).state().highest == {}


async def test_a_further_model_that_cannot_be_had_is_said_and_left_out(tmp_path: Path, publish: Publish) -> None:
    damaged = publish("damaged")
    (damaged / "model.bin").write_bytes(b"")
    unfit = publish("unfit", for_a_gpu)
    settings = config(
        tmp_path, {"bundle": damaged, "once": True}, {"bundle": unfit, "once": True}, {"bundle": "none", "every": 5}
    )
    async with open_parts(settings, Metrics(), (), tmp_path, remember=False) as parts:
        assert set(parts.missing) == {"damaged", "none"}
        assert "model.bin has 0 bytes" in parts.missing["damaged"]
        assert "there is no bundle at none" in parts.missing["none"]
        assert set(await look(parts, default_bundle(), 1)) == {f"deepecg-sl-demo/{VERSION}"}
        first, other = parts.batcher.states()
        assert first.engine.startswith("openvino-")
        assert "has no engine that works on this machine" in other.problem


@pytest.mark.parametrize(
    ("name", "change", "model", "said"),
    [
        ("deepecg-sl-demo", None, {"every": 5}, "serves deepecg-sl-demo twice"),
        ("ssl", None, {"every": 60, "alerts": True}, "set every to 10 or less"),
        ("silent", without_rules, {"every": 5, "alerts": True}, "no label of it has a rule"),
        ("short", of_five_seconds, {"every": 5}, f"the bundle short/{re.escape(VERSION)} needs 5"),
    ],
)
async def test_what_contradicts_itself_is_one_sentence(
    tmp_path: Path, publish: Publish, name: str, change: Change | None, model: dict[str, object], said: str
) -> None:
    settings = config(tmp_path, {"bundle": publish(name, change), **model})
    with pytest.raises(StartError, match=said):
        async with open_parts(settings, Metrics(), (), tmp_path, remember=False):
            pytest.fail("started")
