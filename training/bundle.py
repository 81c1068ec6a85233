"""Write an engine bundle: engine files, golden windows, README, the manifest with every checksum, and its signature.

Every release of the package brings a demonstration bundle that is signed by a key of its own: it is made for that
release (``deepecg-train keygen``), signs that one bundle (``deepecg-train compile … --key``), its public half goes into
the same wheel (``agent/bundles/demo.pem``), and the private half is deleted. So there is no key to guard between
releases, and none whose loss would let anybody else speak as this project: whoever holds the wheel holds what it needs
to check the bundle inside, and the wheel itself is checked by how it was got. A hospital's own bundles are signed by
the hospital's key, which its wards trust by ``[engine] trusted_keys``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import save as safetensors_bytes

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
    Parity,
    Source,
    Target,
    Training,
)
from agent.engines.bundle import MANIFEST, SIGNATURE, UNSIGNED, Bundle, BundleError, open_bundle
from agent.engines.signing import Trust, sign
from training.inference import Network, convert, openvino, samples_of
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL

IR, IR_WEIGHTS = "model.xml", "model.bin"
WEIGHTS, WINDOWS, ANSWERS, README = (
    "weights.safetensors",
    "golden_windows.npy",
    "golden_probabilities.npy",
    "README.md",
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
    """Size and SHA-256 of every file in the folder but the manifest and its signature."""
    return {
        path.name: FileEntry(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name not in {MANIFEST, SIGNATURE}
    }


def write_manifest(folder: Path, manifest: Manifest, key: Ed25519PrivateKey | None = None) -> None:
    """Write the manifest, and its signature by this key; without one, the signature that was there goes."""
    content = manifest.model_dump_json(indent=1).encode("utf-8") + b"\n"
    (folder / SIGNATURE).unlink(missing_ok=True)  # first, so that no signature stands beside what it does not sign
    (folder / MANIFEST).write_bytes(content)
    if key is not None:
        (folder / SIGNATURE).write_bytes(sign(content, key))


def sign_bundle(folder: Path, key: Ed25519PrivateKey) -> Bundle:
    """Check the bundle in the folder, whoever signed it, and sign it by this key.

    Raises:
        BundleError: it is not whole; nothing is signed.
    """
    bundle = open_bundle(folder, UNSIGNED)
    content = (bundle.path / MANIFEST).read_bytes()
    if hashlib.sha256(content).hexdigest() != bundle.sha256:
        raise BundleError(f"{MANIFEST} changed while it was checked; run sign again.")
    new = bundle.path / f"{SIGNATURE}.new"
    new.write_bytes(sign(content, key))
    new.replace(bundle.path / SIGNATURE)
    return open_bundle(folder, Trust().trusting(key.public_key()))


def write_bundle(
    folder: Path,
    net: DeepECGSL | DeepECGSSL,
    golden: FloatArray,
    labels: tuple[Label, ...],
    identity: Identity,
    training: Training,
    readme: str,
    *,
    preprocessing: Preprocessing | None = None,
    keep_weights: bool = True,
    key: Ed25519PrivateKey | None = None,
) -> Manifest:
    """Compile the network and write the bundle into ``folder``, replacing the one that is there.

    ``golden`` (k, 12, rate · seconds) raw mV at the network's rate: its answers are computed by torch in fp32, and the
    engine is held against them. ``keep_weights`` puts the safetensors beside the engine, so that other engines can be
    compiled from the bundle alone. ``key`` signs it; without one no agent serves it until it is signed.

    Raises:
        ValueError: the network's labels are not those given, or the engine is further than ``TOLERANCE`` from torch.
    """
    p = preprocessing or Preprocessing()
    net.eval()
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
    weights = safetensors_bytes({key: value.contiguous() for key, value in sorted(net.state_dict().items())})
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
                target=Target(kind="cpu"),
                parity=Parity(windows=len(golden), probability_max=parity),
            ),
        ),
        source=Source(ir=(IR, IR_WEIGHTS)),
        golden=Golden(windows=WINDOWS, probabilities=ANSWERS, tolerance=TOLERANCE),
        files=files_of(new),
        training=training,
        change=identity.change,
    )
    write_manifest(new, manifest, key)
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
