"""Write an engine bundle: the network's engine files, golden windows, README and the manifest with every checksum."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from agent.core.ecg import LEADS, FloatArray
from agent.core.filters import Preprocessing, prepare
from agent.core.manifest import (
    ChangeRecord,
    Engine,
    FileEntry,
    Golden,
    InputSpec,
    Label,
    Manifest,
    Training,
)
from training.inference import Network, convert, openvino, samples_of
from training.models.sl import sl_from_state

IR, IR_WEIGHTS = "model.xml", "model.bin"
WEIGHTS, WINDOWS, ANSWERS, README, MANIFEST = (
    "weights.safetensors",
    "golden_windows.npy",
    "golden_probabilities.npy",
    "README.md",
    "manifest.json",
)
TOLERANCE = 1e-4
"""Of a probability, in the agent's self-test: between processors f32 differs by less than 1e-5."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a bundle is called and says of itself."""

    name: str
    version: str
    architecture: str
    statement: str
    change: ChangeRecord


def files_of(folder: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of every file in the folder but the manifest."""
    return {
        path.name: FileEntry(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }


def write_bundle(
    folder: Path,
    state: Mapping[str, Tensor],
    golden: FloatArray,
    labels: tuple[Label, ...],
    identity: Identity,
    training: Training,
    readme: str,
    *,
    preprocessing: Preprocessing | None = None,
    keep_weights: bool = True,
) -> Manifest:
    """Compile the network of ``state`` and write the bundle into ``folder``, replacing the one that is there.

    ``golden`` (k, 12, rate · seconds) raw mV at the network's rate: its answers are computed by torch in fp32, and the
    engine is held against them. ``keep_weights`` puts the safetensors beside the engine, so that other engines can be
    compiled from the bundle alone.

    Raises:
        ValueError: the network's labels are not those given, or the engine is further than ``TOLERANCE`` from torch.
    """
    p = preprocessing or Preprocessing()
    net = sl_from_state(state)
    if net.config.labels != len(labels):
        raise ValueError(f"the network has {net.config.labels} outputs, but {len(labels)} labels were given")
    model = convert(net, samples_of(p))
    x = prepare(golden, p.rate, p)
    with torch.no_grad():
        answers = torch.sigmoid(net(torch.from_numpy(x))).numpy()
    parity = float(np.abs(Network(model).infer(x) - answers).max())
    if not parity <= TOLERANCE:
        raise ValueError(f"OpenVINO is {parity:.1e} away from torch, more than {TOLERANCE:g}; do not ship this engine")

    new = folder.with_name(folder.name + ".new")
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(parents=True)
    openvino.save_model(model, str(new / IR), compress_to_fp16=False)
    weights = safetensors_bytes({key: value.contiguous() for key, value in sorted(state.items())})
    if keep_weights:
        (new / WEIGHTS).write_bytes(weights)
    np.save(new / WINDOWS, golden.astype(np.float32))
    np.save(new / ANSWERS, answers)
    (new / README).write_text(readme, "utf-8")
    manifest = Manifest(
        name=identity.name,
        version=identity.version,
        architecture=identity.architecture,
        statement=identity.statement,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        input=InputSpec(required_leads=(LEADS[1],), preprocessing=p),
        labels=labels,
        engines=(
            Engine(
                flavour="openvino",
                precision="f32",
                library=f"openvino {openvino.__version__}",
                files=(IR, IR_WEIGHTS),
                parity=parity,
            ),
        ),
        golden=Golden(windows=WINDOWS, probabilities=ANSWERS, tolerance=TOLERANCE),
        files=files_of(new),
        training=training,
        change=identity.change,
    )
    (new / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    if old.exists():
        shutil.rmtree(old)
    return manifest


def as_plain(value: Any) -> Any:
    """Dataclass content for JSON: tuples as lists, numpy numbers as numbers."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
