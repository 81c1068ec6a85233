"""Write an engine bundle: engine files, golden windows, README, the manifest with every checksum, and its signature.

Every release of the package brings a demonstration bundle that is signed by a key of its own: it is made for that
release (``deepecg-train keygen``), signs that one bundle (``deepecg-train compile … --key``), its public half goes into
the same wheel (``agent/bundles/demo.pem``), and the private half is deleted. So there is no key to guard between
releases, and none whose loss would let anybody else speak as this project: whoever holds the wheel holds what it needs
to check the bundle inside, and the wheel itself is checked by how it was got. A hospital's own bundles are signed by
the hospital's key, which its wards trust by ``[engine] trusted_keys``.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from safetensors.torch import save as safetensors_bytes
from torch.export import ExportedProgram

from agent.core.bundle.limits import Parity, ParityLimits
from agent.core.bundle.manifest import (
    ChangeRecord,
    Engine,
    FileEntry,
    Golden,
    InputSpec,
    Label,
    Manifest,
    Source,
    Training,
)
from agent.core.ecg import FloatArray
from agent.core.preprocessing import prepare
from agent.engines.bundles.bundle import MANIFEST, SIGNATURE, UNSIGNED, Bundle, BundleError, open_bundle
from agent.engines.bundles.signing import Trust, sign
from agent.engines.compile import IR, ONNX, Built, SourceFiles
from training.models.weights import ModelConfig, json_of
from training.publish.export import OPSET, export, samples_of
from training.publish.serving_form import Classifier
from training.train.learners import head_of

WEIGHTS, CONFIG, WINDOWS, ANSWERS, README = (
    "weights.safetensors",
    "weights.json",
    "golden_windows.npy",
    "golden_probabilities.npy",
    "README.md",
)
TOLERANCE = 1e-4
"""Of an answer, in the agent's self-test: between processors f32 differs by less than 1e-5."""


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
    new = folder / f"{MANIFEST}.new"
    new.write_bytes(content)
    (folder / SIGNATURE).unlink(missing_ok=True)  # first, so that no signature stands beside what it does not sign
    new.replace(folder / MANIFEST)
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


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """All of a bundle but its engines."""

    net: Classifier
    config: ModelConfig
    """Of the network; stands beside the weights."""
    labels: tuple[Label, ...]
    """Of the outputs, in their order."""
    input: InputSpec
    identity: Identity
    training: Training
    golden: FloatArray
    """(k, 12, rate · seconds) raw mV at the network's rate: their answers are computed by torch in fp32."""
    readme: str
    limits: ParityLimits = field(default_factory=ParityLimits)
    keep_weights: bool = True
    """Put the safetensors beside the engines, so that they can be validated by the bundle alone."""


def answers_of(net: Classifier, x: FloatArray, labels: Sequence[Label]) -> FloatArray:
    """(n, L) answers of fp32 torch to prepared windows (n, 12, T): probabilities, or quantities in their scale."""
    with torch.inference_mode():
        out = net(torch.from_numpy(x))
        out = torch.sigmoid(out) if (scale := _scale(labels)) is None else torch.div(out, scale)
    answers: FloatArray = out.numpy()
    return answers


def exported(contents: Contents) -> ExportedProgram:
    """The network as engines compute it: the sigmoid inside, or a quantity's scale in the head."""
    net, samples = contents.net, samples_of(contents.input.preprocessing)
    if (scale := _scale(contents.labels)) is None:
        return export(net, samples)
    net = copy.deepcopy(net)
    head = head_of(net)
    with torch.no_grad():
        head.weight.div_(scale[:, None])
        head.bias.div_(scale)
    return export(net, samples, "none")


def _scale(labels: Sequence[Label]) -> torch.Tensor | None:
    """(L,) of quantities; None of findings. A head is of one kind."""
    scales = [label.quantity.scale for label in labels if label.quantity is not None]
    if scales and len(scales) < len(labels):
        raise ValueError("a network answers with probabilities or with quantities, not with both")
    return torch.tensor(scales) if scales else None


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A whole bundle beside the place where it will stand, engines and all, that nobody has vouched for yet."""

    path: Path
    manifest: Manifest
    contents: Contents

    def publish(
        self,
        folder: Path,
        engines: Sequence[Engine],
        *,
        tested: str = "",
        readme: Sequence[str] = (),
        key: Ed25519PrivateKey | None = None,
    ) -> Manifest:
        """Put it in its place with these engines, whose parity is known now, and sign it if there is a key.

        ``tested`` and ``readme`` are appended to what the change record and the README say. A bundle that is there is
        replaced.

        Raises:
            ValueError: an engine breaks the gate, or none is left.
        """
        if not engines:
            raise ValueError("no engine is left; compile another precision")
        entries = tuple(engines)
        dropped = {name for engine in self.manifest.engines for name in engine.files}
        dropped -= {name for engine in entries for name in engine.files}
        if self.manifest.source is not None:
            dropped -= set(self.manifest.source.files)
        for name in dropped:
            (self.path / name).unlink()
        text = self.contents.readme + "\n".join(["", *readme, ""] if readme else [])
        (self.path / README).write_text(text, "utf-8")
        change = self.manifest.change
        whole = self.manifest.model_dump() | {
            "engines": entries,
            "files": files_of(self.path),
            "change": change.model_copy(update={"how_tested": f"{change.how_tested} {tested}".strip()}),
        }
        manifest = Manifest.model_validate(whole)
        write_manifest(self.path, manifest, key)
        old = folder.with_name(folder.name + ".old")
        if old.exists():
            shutil.rmtree(old)
        if folder.exists():
            folder.rename(old)
        self.path.rename(folder)
        if old.exists():
            shutil.rmtree(old)
        return manifest


@contextmanager
def draft(folder: Path, contents: Contents, source: SourceFiles, built: Sequence[Built]) -> Iterator[Draft]:
    """A draft beside ``folder``; nothing is left of it where it is not published.

    Raises:
        ValueError: the network's labels are not those given, or the folder is no bundle.
    """
    net = contents.net.eval()
    if net.config.labels != len(contents.labels):
        raise ValueError(f"the network has {net.config.labels} outputs, but {len(contents.labels)} labels were given")
    if folder.exists() and not (folder / MANIFEST).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there and is no bundle; name another folder")
    new = folder.with_name(folder.name + ".new")
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(parents=True)
    try:
        yield Draft(new, _written(new, contents, source, built), contents)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _written(new: Path, contents: Contents, source: SourceFiles, built: Sequence[Built]) -> Manifest:
    """All files but the README, and an unsigned manifest in which no engine has been validated."""
    files = {name: content for engine in built for name, content in engine.files.items()}
    if source.ir is not None:
        files |= dict(zip(IR, source.ir, strict=True))
    if source.onnx is not None:
        files[ONNX] = source.onnx
    for name, content in files.items():
        (new / name).write_bytes(content)
    net, p = contents.net, contents.input.preprocessing
    weights = safetensors_bytes({key: value.contiguous() for key, value in sorted(net.state_dict().items())})
    if contents.keep_weights:
        (new / WEIGHTS).write_bytes(weights)
        (new / CONFIG).write_text(json_of(contents.config), "utf-8")
    np.save(new / WINDOWS, contents.golden.astype(np.float32))
    np.save(new / ANSWERS, answers_of(net, prepare(contents.golden, p.rate, p), contents.labels))
    identity = contents.identity
    manifest = Manifest(
        name=identity.name,
        version=identity.version,
        architecture=identity.architecture,
        statement=identity.statement,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        input=contents.input,
        labels=contents.labels,
        engines=tuple(engine.entry(Parity()) for engine in built),
        source=Source(
            onnx=ONNX if source.onnx is not None else "",
            opset=OPSET if source.onnx is not None else None,
            ir=IR if source.ir is not None else (),
        ),
        golden=Golden(windows=WINDOWS, probabilities=ANSWERS, tolerance=TOLERANCE),
        limits=contents.limits,
        files=files_of(new),
        training=contents.training,
        change=identity.change,
    )
    write_manifest(new, manifest)
    return manifest


def parse_config(content: bytes) -> ModelConfig:
    """The network's config from the bundle's file of it.

    Raises:
        ValueError: it is none of ours.
    """
    try:
        return ModelConfig.model_validate(json.loads(content))
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{CONFIG} is no config of a network; name the model folder instead: --model") from error


def as_plain(value: Any) -> Any:
    """Dataclass content for JSON: tuples as lists, numpy numbers as numbers."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
