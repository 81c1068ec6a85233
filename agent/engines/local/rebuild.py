"""Engines compiled on the ward: which are worth it on this machine, and from a bundle's source to the state directory.

No torch, no training, no network, no data: the source, the limits and the golden windows are in the signed bundle, and
`agent.engines.compile` is the compiler that the publisher used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import structlog

from agent import __version__
from agent.core.bundle.derived import Machine
from agent.core.bundle.limits import Parity
from agent.core.bundle.manifest import Engine, Flavour, Manifest, Precision
from agent.core.bundle.parity import parity_of
from agent.core.ecg import FloatArray
from agent.core.preprocessing import prepare
from agent.engines.base import Backend, EngineError
from agent.engines.bundles.bundle import Bundle, BundleError
from agent.engines.compile import PRECISIONS, Built, Progress, build, read_source
from agent.engines.local.engines import DerivedEngine, read_derived, remove_derived, write_derived
from agent.engines.local.record import Failure, Record, Wanted, now, read_record, update_record
from agent.engines.select import FACTORIES, Skipped, misfit
from agent.engines.settings import EngineSettings

log = structlog.get_logger()

_GPU: frozenset[Flavour] = frozenset({"tensorrt", "tensorrt-rtx", "torch-cuda"})


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """An engine that was compiled here, and what is to be said of it."""

    engine: DerivedEngine
    seconds: float
    """That compiling took."""
    size: int
    """Bytes of its files."""


def fingerprint(machine: Machine) -> str:
    """What has to change before it is worth trying again to compile what could not be compiled."""
    return hashlib.sha256(f"{__version__}\n{machine.model_dump_json()}".encode()).hexdigest()


def worth_it(
    bundle: Bundle,
    machine: Machine,
    record: Record,
    mine: Sequence[DerivedEngine],
    serving: Engine | None,
    skipped: Sequence[Skipped],
) -> tuple[Wanted, ...]:
    """The engines that would serve a bundle better here than the present one, the best first.

    These are the engines of the manifest before the one that serves, and the one of this machine's own that fits it no
    longer, as far as this machine can compile them: a GPU that is not there cannot be compiled for. What was compiled
    before, refused or sent away on this very machine is not wanted again.

    Args:
        bundle: Its manifest says what the publisher prefers.
        machine: This one.
        record: What was tried, and what failed.
        mine: This machine's own engines of the bundle that fit it.
        serving: What serves; None: nothing does.
        skipped: What does not, though it would be preferred, and why.
    """
    manifest = bundle.manifest
    reasons = {one.engine: one.reason for one in skipped}
    own = record.serving.get(bundle.sha256)
    known = {(e.derived.engine.flavour, e.derived.engine.precision) for e in mine}
    machine_id = fingerprint(machine)
    offered = [(e.flavour, e.precision) for e in manifest.engines]
    present = None if serving is None else (serving.flavour, serving.precision)
    better = offered[: offered.index(present)] if present in offered else [] if present else offered
    if own is not None and f"{own.flavour}-{own.precision}" in reasons:
        better.insert(0, (own.flavour, own.precision))
    found: list[Wanted] = []
    for flavour, precision in dict.fromkeys(better):
        if (flavour, precision) in known or (flavour, precision) == present:
            continue
        if any(f.is_of(bundle.sha256, flavour, precision, machine_id) and f.is_final for f in record.failed):
            continue
        if cannot(manifest, machine, flavour, precision):
            continue
        reason = reasons.get(f"{flavour}-{precision}", "no engine works on this machine")
        found.append(
            Wanted(parent=bundle.sha256, model=manifest.model_id, flavour=flavour, precision=precision, reason=reason)
        )
    return tuple(found)


def cannot(manifest: Manifest, machine: Machine, flavour: Flavour, precision: Precision) -> str:
    """Why an engine cannot be compiled for this machine, in words; empty: nothing is known against it."""
    source = manifest.source
    if precision not in PRECISIONS[flavour]:
        return f"{flavour} has no {precision}, only {', '.join(PRECISIONS[flavour])}"
    if source is None or (flavour != "openvino" and not source.onnx):
        return f"bundle {manifest.model_id} holds nothing that {flavour} can be compiled from"
    if not machine.libraries.get(flavour):
        return f"{flavour} is not installed"
    if flavour in _GPU and not machine.gpu:
        return "there is no NVIDIA GPU on this machine, or its driver is not seen"
    if flavour == "openvino" and precision == "bf16" and "avx512_bf16" not in machine.cpu_features:
        return "this processor has no avx512_bf16"
    return ""


def presumed(
    bundle: Bundle, machine: Machine, record: Record, mine: Sequence[DerivedEngine]
) -> tuple[Engine | None, tuple[Skipped, ...]]:
    """What would serve and what would not, by the manifests alone: for who asks while no agent runs."""
    own = record.serving.get(bundle.sha256)
    promoted = next((e for e in mine if own is not None and e.path.name == own.engine), None)
    skipped: list[Skipped] = []
    if own is not None and promoted is None:
        skipped.append(Skipped(f"{own.flavour}-{own.precision}", "it was compiled on another machine"))
    for entry in (promoted.derived.engine,) if promoted is not None else bundle.manifest.engines:
        if not (reason := misfit(entry, machine)):
            return entry, tuple(skipped)
        skipped.append(Skipped(f"{entry.flavour}-{entry.precision}", reason))
    return None, tuple(skipped)


def rebuild(
    bundle: Bundle,
    flavour: Flavour,
    precision: Precision,
    state_dir: Path,
    settings: EngineSettings,
    machine: Machine,
    progress: Progress | None = None,
) -> Rebuilt:
    """Compile one engine for this machine, hold it against the golden windows, sign and keep it.

    What fails is remembered, so that the agent does not ask for it again and again.

    Raises:
        EngineError: it cannot be compiled or does not run here; one sentence.
        BundleError: it does not pass the bundle's gate, or the state directory cannot be written.
    """
    started = Failure(
        parent=bundle.sha256, flavour=flavour, precision=precision, machine=fingerprint(machine), time=now()
    )

    def begin(record: Record) -> Record:
        before = [f for f in record.failed if f.is_of(started.parent, flavour, precision, started.machine)]
        starts = 1 + sum(f.starts for f in before if not f.reason)
        return record.with_failure(started.model_copy(update={"starts": starts}))

    update_record(state_dir, begin)
    try:
        if problem := cannot(bundle.manifest, machine, flavour, precision):
            raise EngineError(f"{flavour} {precision} cannot be compiled here: {problem}.")
        done = _compile(bundle, flavour, precision, settings, machine, progress)
        kept = write_derived(state_dir, bundle, done[1], machine, done[0].files)
    except (EngineError, BundleError) as error:
        failure = started.model_copy(update={"reason": str(error), "time": now()})
        update_record(state_dir, lambda record: record.with_failure(failure))
        raise
    update_record(state_dir, lambda record: record.without_failure(started))
    _forget_older(state_dir, bundle, kept)
    log.info("engine_rebuilt", model=bundle.manifest.model_id, engine=kept.path.name, seconds=round(done[0].seconds, 1))
    return Rebuilt(kept, done[0].seconds, done[0].size)


def _compile(
    bundle: Bundle,
    flavour: Flavour,
    precision: Precision,
    settings: EngineSettings,
    machine: Machine,
    progress: Progress | None,
) -> tuple[Built, Engine]:
    """The engine, and its manifest entry with its parity."""
    alike = [e for e in bundle.manifest.engines if e.flavour == flavour]
    like = next((e for e in alike if e.precision == precision), next(iter(alike), None))
    built = build(
        read_source(bundle, flavour),
        flavour,
        precision,
        like.batches if like is not None else (),
        capabilities=(machine.compute_capability,) if machine.compute_capability else (),
        progress=progress,
    )
    if progress is not None:
        progress("measuring", 0.0)
    unmeasured = built.entry(Parity())
    if reason := misfit(unmeasured, machine):
        raise EngineError(f"the {flavour} {precision} engine does not fit the machine that compiled it: {reason}.")
    return built, built.entry(_parity(bundle, unmeasured, built.files, settings))


def _parity(bundle: Bundle, entry: Engine, files: Mapping[str, bytes], settings: EngineSettings) -> Parity:
    """Over all golden windows, alone and in batches."""
    manifest = bundle.manifest.model_copy(update={"engines": (entry,)})
    given = {f.name: getattr(bundle, f.name) for f in fields(bundle)} | {"manifest": manifest}
    p = manifest.input.preprocessing
    x = prepare(bundle.golden_windows, p.rate, p)
    with FACTORIES[entry.flavour](_InMemory(**given, contents=files), entry, settings) as backend:
        answers = [_answers(backend, x, size) for size in sorted({1, min(settings.max_batch, len(x))})]
    if any(found.shape != bundle.golden_probabilities.shape for found in answers):
        raise EngineError(f"the engine gives {answers[0].shape[1:]} values per window; use a bundle that is whole.")
    wanted = np.concatenate([bundle.golden_probabilities] * len(answers))
    return parity_of(manifest, wanted, np.concatenate(answers), f32=entry.precision == "f32")


def _answers(backend: Backend, x: FloatArray, size: int) -> FloatArray:
    return np.concatenate([backend.infer(x[first : first + size]) for first in range(0, len(x), size)])


def _forget_older(state_dir: Path, bundle: Bundle, kept: DerivedEngine) -> None:
    """Earlier engines of this kind, but for what serves or is on trial: a large one takes half a gigabyte."""
    entry, record = kept.derived.engine, read_record(state_dir)
    serving = {one.engine for one in record.serving.values()}
    prefix = f"{entry.flavour}-{entry.precision}-{bundle.sha256[:8]}-"
    for folder in sorted(kept.path.parent.glob(f"{prefix}*")):
        tried = record.tried.get(folder.name)
        if folder != kept.path and folder.name not in serving and (tried is None or tried.is_over):
            remove_derived(state_dir, folder.name)


def fitting(state_dir: Path, bundle: Bundle, machine: Machine) -> tuple[Record, list[DerivedEngine]]:
    """What is known of a bundle's engines, and those of this machine's own that fit it."""
    return read_record(state_dir), read_derived(state_dir, bundle.sha256, machine)


@dataclass(frozen=True, slots=True, eq=False)
class _InMemory(Bundle):
    """A bundle with an engine that is not written yet."""

    contents: Mapping[str, bytes] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        return self.contents[name]
