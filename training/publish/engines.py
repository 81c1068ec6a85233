"""Engines: asked for, compiled by the agent's own compiler, validated, and published if they pass the gate."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch.export import ExportedProgram
from tqdm import tqdm

from agent.core.bundle.manifest import Flavour, Manifest, Precision
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import UNSIGNED, open_bundle
from agent.engines.compile import PRECISIONS, Built, SourceFiles, build, ir_of
from training.data import WindowTable
from training.defaults import HOURS, WINDOWS
from training.models.kinds import Family
from training.publish.bundle import Contents, draft
from training.publish.export import MAX_BATCH, onnx_from, openvino_from
from training.publish.report import Validation, section_of
from training.publish.validate import compared, validate

_FORM = re.compile(r"(?P<flavour>[a-z-]+)-(?P<precision>[a-z0-9]+)(?::(?P<batches>[0-9]{1,9}(?:,[0-9]{1,9})*))?")


@dataclass(frozen=True, slots=True)
class Asked:
    """An engine to compile."""

    flavour: Flavour
    precision: Precision
    batches: tuple[int, ...] = ()
    """Ascending; none: the compiler's own."""

    @property
    def name(self) -> str:
        """As ``openvino-bf16``."""
        return f"{self.flavour}-{self.precision}"


def asked_from(text: str) -> Asked:
    """``FLAVOUR-PRECISION[:BATCH,BATCH …]``; batches are a GPU's: the processor computes window by window.

    Raises:
        ValueError: it is none of ours.
    """
    found = _FORM.fullmatch(text)
    flavour = found["flavour"] if found else ""
    if found is None or flavour not in get_args(Flavour):
        raise ValueError(
            f"--engine {text} is not FLAVOUR-PRECISION[:BATCH,…]; flavours are {', '.join(get_args(Flavour))}"
        )
    known = PRECISIONS[cast(Flavour, flavour)]
    if found["precision"] not in known:
        raise ValueError(f"--engine {text}: {flavour} has no {found['precision']}; take one of {', '.join(known)}")
    batches = tuple(sorted({int(size) for size in found["batches"].split(",")})) if found["batches"] else ()
    if batches and not 1 <= batches[0] <= batches[-1] <= MAX_BATCH:
        raise ValueError(f"--engine {text}: a batch has 1 to {MAX_BATCH} windows")
    if batches and flavour == "openvino":
        raise ValueError(f"--engine {text}: openvino computes window by window; leave the batches out")
    return Asked(cast(Flavour, flavour), cast(Precision, found["precision"]), batches)


def defaults(family: Family) -> tuple[Asked, ...]:
    """For processors, the fastest first; int8 weights where matrix products are most of the network."""
    precisions: tuple[Precision, ...] = ("bf16", "f32") if family == "sl" else ("int8w", "bf16", "f32")
    return tuple(Asked("openvino", one) for one in precisions)


def once(asked: Sequence[Asked]) -> tuple[Asked, ...]:
    """The same.

    Raises:
        ValueError: two of them are one flavour and precision, and would have one name.
    """
    names = [one.name for one in asked]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} is asked for twice; give all its batches at once, as tensorrt-f16:1,8")
    return tuple(asked)


def sources_of(program: ExportedProgram, *, onnx: bool) -> SourceFiles:
    """What engines are compiled from, of an exported network: the IR, and the ONNX file where it is wanted."""
    return SourceFiles(onnx=onnx_from(program) if onnx else None, ir=ir_of(openvino_from(program)))


def compile_all(
    source: SourceFiles,
    asked: Sequence[Asked],
    *,
    capabilities: Sequence[str] = (),
    drop_failing: bool = False,
    progress: bool = True,
) -> tuple[list[Built], list[str]]:
    """The engines in the order asked for, and one sentence for each that cannot be compiled and may be left out.

    Raises:
        ValueError: one cannot be compiled and may not be left out.
    """
    built: list[Built] = []
    left_out: list[str] = []
    for one in asked:
        with tqdm(total=1.0, desc=one.name, disable=not progress, mininterval=5, bar_format=_BAR) as bar:
            told = partial(_tell, bar)
            try:
                built.append(
                    build(source, one.flavour, one.precision, one.batches, capabilities=capabilities, progress=told)
                )
                told("done", 1.0)
            except EngineError as error:
                if not drop_failing:
                    raise ValueError(f"{one.name}: {error}") from error
                left_out.append(f"{one.name} is left out: {error}")
    return built, left_out


def _tell(bar: Any, phase: str, share: float) -> None:
    bar.set_postfix_str(phase, refresh=False)
    bar.n = share
    bar.update(0)


def publish(
    folder: Path,
    contents: Contents,
    source: SourceFiles,
    built: Sequence[Built],
    *,
    table: WindowTable | None = None,
    windows: int = WINDOWS,
    hours: float = HOURS,
    key: Ed25519PrivateKey | None = None,
    drop_failing: bool = False,
    threads: int = 1,
    progress: bool = True,
    tell: Callable[[Validation], None] = lambda _: None,
) -> Manifest:
    """Write the bundle if its engines pass its gate, or with ``drop_failing`` those that do; the old one stays if not.

    Args:
        folder: Where it will stand.
        contents: All but the engines.
        source: What they were compiled from, which goes into the bundle too.
        built: The engines, the best first.
        table: Dataset on whose windows they are held against fp32 torch, beside the golden ones.
        windows: How many of the dataset.
        hours: Of whole recordings in which alerts are compared.
        key: Signs the bundle.
        drop_failing: Leave out what breaks the gate instead of writing nothing.
        threads: Processor threads.
        progress: Show bars.
        tell: Called with what was found before anything is published or refused.

    Raises:
        ValueError: an engine breaks the gate and may not be left out, none is left, or as `draft` and `windows_of`.
    """
    with draft(folder, contents, source, built) as made:
        with compared(table, made.manifest, windows=windows, hours=hours) as chosen:
            bundle = open_bundle(made.path, UNSIGNED)
            found = validate(bundle, contents.net, chosen, threads=threads, progress=progress)
        tell(found)
        if found.failed and not (drop_failing and len(found.failed) < len(found.engines)):
            raise ValueError(
                f"the gate is closed for {', '.join(one.engine for one in found.failed)}, and {folder} was not "
                "written; compile another precision, or leave out what fails: --drop-failing"
            )
        passing = [
            entry.model_copy(update={"parity": one.parity})
            for entry, one in zip(made.manifest.engines, found.engines, strict=True)
            if not one.broken
        ]
        tested = f"Engines held against fp32 torch on {found.what}."
        return made.publish(folder, passing, tested=tested, readme=section_of(found), key=key)


_BAR = "{desc}: {percentage:3.0f} %, {elapsed}{postfix}"
