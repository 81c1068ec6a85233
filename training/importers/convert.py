"""From a published file to a model folder.

    imported = import_file(Path("wcr_77_classes.pt"), Path("models/wcr_77"))

What the file says is read by `training.importers.archive` without running any of it; what it holds is held against the
network's names, shapes and, where the file has them, strides, activations and settings, before a single weight is read;
then the weights are read one by one, and the network answers one window of the project's own generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from tqdm import tqdm

from agent.core.preprocessing import prepare
from agent.simulator.ecg import Rhythm, synthesize
from training.importers.archive import Archive, open_archive
from training.importers.contents import contents, differences, packages
from training.importers.layouts import Layout, layout_of
from training.importers.names import ImportLimits, TensorRef, WeightsError
from training.importers.settings import FairseqSettings, checked, settings_of
from training.importers.tasks import labels_of, task_of, thresholds_for
from training.models import sl, ssl
from training.models.kinds import NAMES, TASKS, Codebook, Family, SLConfig, SSLConfig
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL, Pretraining
from training.models.weights import (
    ModelConfig,
    Network,
    Provenance,
    agree,
    config_of,
    family_of,
    fit,
    published_preprocessing,
    save_network,
    some,
)

T = TypeVar("T")
Columns = Literal["softmax", "sigmoid"]
HEADS: Mapping[Family, str] = {"sl": "classifier.3", "ssl": "proj"}
"""The last layer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user says of the file; None leaves it to the file."""

    family: Family | None = None
    task: str | None = None
    labels: tuple[str, ...] | None = None
    order: Literal["sl", "ssl"] | None = None
    """Whose order 77 outputs are in; by default each published network's own."""
    heads: int | None = None
    columns: Columns | None = None
    """How two outputs of one label were trained: by a cross-entropy over both, or each by its own sigmoid."""
    thresholds: bool = True
    """Whether to put the published thresholds into the config."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of it."""

    config: ModelConfig
    parameters: int
    span: tuple[float, float]
    """Smallest and largest output on one window of sinus rhythm."""
    foreign: tuple[str, ...]
    """Packages of the classes that the file names; none was imported."""


def import_file(
    path: Path, folder: Path, asked: Asked | None = None, *, progress: bool = False, limits: ImportLimits | None = None
) -> Imported:
    """Read one published file, write one model folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or hostile, or of another network; or the folder holds something else.
    """
    asked, limits = asked or Asked(), limits or ImportLimits()
    with open_archive(path, limits) as archive:
        found = contents(archive.root, limits)
        settings = settings_of(found.settings)
        layout = layout_of(found.tensors, asked.family)
        refs = {ours: found.tensors[theirs] for ours, theirs in layout.keys.items()}
        net, notes = _network(layout, refs, settings, asked)
        inner = {place.removeprefix(layout.prefix): module for place, module in found.modules.items()}
        if other := differences(net, inner):
            raise WeightsError(f"its modules compute something else than {NAMES[layout.family]}: {some(other)}")
        if layout.prefix and found.modules:
            notes += ("what the module around the network does to its input or output was not taken over",)
        task = asked.task or ("pretraining" if isinstance(net, Pretraining) else task_of(path, net.config.labels))
        tensors = _read(archive, refs, net, path.name, progress=progress)
        net, folded = _one_column(net, tensors, task, asked, settings)
        fit(net, tensors, path.name)
        net.eval()
        provenance = Provenance(
            origin=", ".join(dict.fromkeys((found.form, archive.form))),
            file=path.name,
            sha256=_sha256(path, progress=progress),
            notes=(*layout.notes, *notes, *folded),
        )
        config = _config(net, task, asked, settings, provenance)
        span = answer(net, config)
        foreign = packages(archive.root)
    save_network(net, folder, config)
    return Imported(config, sum(p.numel() for p in net.parameters()), span, foreign)


def _network(
    layout: Layout, refs: Mapping[str, TensorRef], settings: FairseqSettings, asked: Asked
) -> tuple[Network, tuple[str, ...]]:
    """The network that the tensors and settings describe, its weights not yet there."""
    name = NAMES[layout.family]
    notes: list[str] = []
    shapes = cast("Mapping[str, Tensor]", refs)  # whose shapes alone are looked at
    sizes: SLConfig | SSLConfig
    codebook: Codebook | None = None
    try:
        if layout.family == "sl":
            sizes = sl.config_from_state(shapes)
        else:
            heads = _heads(settings, asked.heads)
            sizes = ssl.config_from_state(shapes, heads)
            codebook = ssl.codebook_from_state(shapes) if layout.family == "ssl-pretraining" else None
            if sizes.width % sizes.heads:
                raise WeightsError(f"{sizes.heads} heads of attention do not divide a width of {sizes.width}")
            if heads is None:
                notes.append(
                    f"nothing says how many heads of attention there are: {sizes.heads} were taken, as published"
                )
            if settings.normalised:
                notes.append("its settings say that each recording was normalised first; the preprocessing here is not")
            sizes, codebook = checked(settings, sizes, codebook)
        with torch.device("meta"):
            net: Network
            if isinstance(sizes, SLConfig):
                net = DeepECGSL(sizes)
            else:
                net = DeepECGSSL(sizes) if codebook is None else Pretraining(sizes, codebook)
    except WeightsError:
        raise
    # Shapes of other dimensions than the network's, a width of zero: the sizes make no network.
    except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError, OverflowError, RuntimeError) as e:
        raise WeightsError(f"the shapes of its tensors make no {name}: {str(e).splitlines()[0]}") from None
    try:
        agree(net, refs, "the file")
    except ValueError as e:
        raise WeightsError(str(e)) from None
    return net, tuple(notes)


def _heads(settings: FairseqSettings, asked: int | None) -> int | None:
    if asked is not None and settings.heads not in (None, asked):
        raise WeightsError(f"its settings say {settings.heads} heads of attention, not {asked}: leave out --heads")
    return asked or settings.heads


def _read(
    archive: Archive, refs: Mapping[str, TensorRef], net: Network, name: str, *, progress: bool
) -> dict[str, Tensor]:
    """The tensors, those that the network has as floating-point numbers in float32."""
    wanted = net.state_dict()
    tensors: dict[str, Tensor] = {}
    spoilt = []
    for key in _bar(sorted(refs), name, "tensor", progress=progress):
        tensor = archive.read(refs[key])
        if wanted[key].is_floating_point():
            if not tensor.is_floating_point():
                raise WeightsError(f"{key} holds whole numbers ({tensor.dtype}) where weights are expected")
            tensor = tensor.float()
            if not torch.isfinite(tensor).all():
                spoilt.append(key)
        tensors[key] = tensor.to(wanted[key].dtype)
    if spoilt:
        raise WeightsError(f"{len(spoilt)} of its tensors ({some(spoilt)}) hold NaN or infinity: the file is damaged")
    return tensors


def _one_column(
    net: Network, tensors: dict[str, Tensor], task: str, asked: Asked, settings: FairseqSettings
) -> tuple[Network, tuple[str, ...]]:
    """A head of two outputs (absent, present) for a task of one label becomes, in place, the one logit that says it."""
    names = asked.labels or TASKS.get(task, ())
    if isinstance(net, Pretraining) or net.config.labels != 2 or len(names) != 1:
        return net, ()
    by_criterion: Columns = "softmax" if settings.criterion == "cross_entropy" else "sigmoid"
    columns = asked.columns or (by_criterion if settings.criterion else None)
    if columns is None:
        raise WeightsError(
            "it has two outputs for one label: pass --columns softmax if they were trained by one cross-entropy, "
            "--columns sigmoid if each has its own"
        )
    for part in ("weight", "bias"):
        key = f"{HEADS[family_of(net)]}.{part}"
        absent, present = tensors[key]
        # softmax((a, b))[1] is sigmoid(b - a).
        tensors[key] = (present - absent if columns == "softmax" else present.clone())[None]
    with torch.device("meta"):
        if isinstance(net, DeepECGSL):
            net = DeepECGSL(replace(net.config, labels=1))
        else:
            net = DeepECGSSL(replace(net.config, labels=1))
    return net, (f"two outputs (absent, present; {columns}) became one logit of the same probability",)


def _config(net: Network, task: str, asked: Asked, settings: FairseqSettings, provenance: Provenance) -> ModelConfig:
    family = family_of(net)
    labels = asked.labels or labels_of(family, task, asked.order)
    if labels is None:
        raise WeightsError(f"the task {task!r} is none of {', '.join(TASKS)}: name its outputs with --labels")
    thresholds = thresholds_for(family, task, labels) if asked.thresholds and labels else None
    return config_of(
        net,
        task=task,
        labels=labels,
        thresholds=thresholds,
        preprocessing=published_preprocessing(family),
        activation="none" if settings.criterion.startswith("mse") else None,
        provenance=provenance,
    )


def answer(net: Network, config: ModelConfig) -> tuple[float, float]:
    """Smallest and largest output on one synthetic window of sinus rhythm.

    Raises WeightsError if an output is no number.
    """
    p = config.preprocessing
    window = synthesize(Rhythm.SINUS, seconds=round(p.seconds), rate=round(p.rate), seed=0)
    x = torch.from_numpy(prepare(window[None], p.rate, p))
    try:
        with torch.no_grad():
            found: Any = net(x)
    except RuntimeError as e:  # sizes that agree with each other, but not with a window of ten seconds
        raise WeightsError(f"the network takes no window of {p.seconds:g} s: {str(e).splitlines()[0]}") from None
    out: Tensor = found[0] if isinstance(found, tuple) else found
    if not torch.isfinite(out).all():
        raise WeightsError("the network's answer to an ordinary window is no number: the file is damaged")
    return float(out.min()), float(out.max())


def _sha256(path: Path, *, progress: bool) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(2**22), b"")
        count = -(-path.stat().st_size // 2**22)
        for block in _bar(blocks, "checksum", "block", progress=progress, total=count):
            digest.update(block)
    return digest.hexdigest()


def _bar(what: Iterable[T], name: str, unit: str, *, progress: bool, total: int | None = None) -> Iterable[T]:
    return tqdm(what, desc=name, unit=unit, total=total, disable=not progress, mininterval=5)
