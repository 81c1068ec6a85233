"""The choice between the back-ends.

The flavours that this version can serve are the keys of `FACTORIES`, and nowhere else.

`open_backend` takes the first engine, in the order that the publisher prefers, that fits this machine: what the
manifest says of its target and library is compared before a file is opened, then the library is asked, then the golden
windows. Each one that is passed over is kept with its reason, so that nobody has to guess why a ward with a GPU is
served by its processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import structlog

from agent.core.bundle.derived import Machine
from agent.core.bundle.manifest import Engine, Flavour
from agent.core.ecg import FloatArray
from agent.core.preprocessing import prepare
from agent.engines.base import Backend, EngineError, Runner
from agent.engines.bundles.bundle import Bundle
from agent.engines.machine import this_machine
from agent.engines.settings import EngineSettings

log = structlog.get_logger()


def _openvino(bundle: Bundle, entry: Engine, settings: EngineSettings) -> Runner:
    from agent.engines.backends.openvino import OpenVinoEngine

    return OpenVinoEngine(bundle, entry, threads=settings.threads, cache=settings.cache)


def _tensorrt(bundle: Bundle, entry: Engine, settings: EngineSettings) -> Runner:
    from agent.engines.backends.tensorrt import TensorRtEngine

    return TensorRtEngine(bundle, entry, cache=settings.cache)


def _torch_cuda(bundle: Bundle, entry: Engine, _settings: EngineSettings) -> Runner:
    from agent.engines.backends.torch_cuda import TorchCudaEngine

    return TorchCudaEngine(bundle, entry)


Factory = Callable[[Bundle, Engine, EngineSettings], Runner]

FACTORIES: Mapping[Flavour, Factory] = {
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt,
    "torch-cuda": _torch_cuda,
}
_TIED: Mapping[Flavour, str] = {"tensorrt": "gpu", "tensorrt-rtx": "gpu-rtx"}
"""Flavours whose engines only the library that compiled them runs, and the extra that brings it."""


def misfit(entry: Engine, machine: Machine) -> str:
    """Why an engine cannot serve on a machine, in words; empty: nothing is known against it.

    By the manifest alone, so that no file of hundreds of megabytes is read for nothing.
    """
    target, here = entry.target, machine.compute_capability
    if target.kind == "gpu" and not machine.gpu:
        return "there is no NVIDIA GPU on this machine, or its driver is not seen"
    if target.compute_capability and target.compute_capability != here:
        return f"it is for compute capability {target.compute_capability}, and {machine.gpu} has {here}"
    if target.gpu and target.gpu != machine.gpu:
        return f"it is for {target.gpu}, and this machine has {machine.gpu}"
    if target.driver and target.driver != machine.driver:
        return f"it is for GPU driver {target.driver}, and this machine has {machine.driver}"
    if missing := sorted(set(target.cpu_features) - set(machine.cpu_features)):
        return f"this processor has no {', '.join(missing)}"
    if (extra := _TIED.get(entry.flavour)) is not None:
        found = machine.libraries.get(entry.flavour, "")
        if not found:
            return f"{entry.flavour} is not installed: pip install 'deepecg-bedside[{extra}]'"
        if entry.library != f"{entry.flavour} {found}":
            return f"{entry.library} compiled it, and {found} is installed: deepecg-agent rebuild"
    return ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An engine that does not serve here."""

    engine: str
    """As ``tensorrt-rtx-bf16``."""
    reason: str
    """In words."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The back-end that serves, and what was found on the way to it."""

    backend: Backend
    bundle: Bundle
    """Whose engine it is: the bundle, or one that this machine derived from it."""
    entry: Engine
    """The manifest's words for it."""
    skipped: tuple[Skipped, ...]
    """The engines before it in the order of preference."""
    golden_difference: float
    """Of its self-test: the largest difference of a probability."""

    @property
    def name(self) -> str:
        """Of the back-end."""
        return self.backend.name

    @property
    def note(self) -> str:
        """Why a better engine does not serve, as one sentence for log and page; empty: the first choice does."""
        if not self.skipped:
            return ""
        reasons = "; ".join(f"{skipped.engine}: {skipped.reason}" for skipped in self.skipped)
        return f"Serving on {self.name} because other engines do not fit this machine ({reasons})."

    def infer(self, x: FloatArray) -> FloatArray:
        """As `Backend.infer`."""
        return self.backend.infer(x)

    def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
        """As `Backend.infer_raw`."""
        return self.backend.infer_raw(windows, rate)


START_WINDOWS = 2
"""Golden windows of the self-test at each start: an engine that is broken shows it on any, and the ward waits."""


@contextmanager
def open_backend(
    bundle: Bundle,
    settings: EngineSettings,
    *,
    derived: Sequence[Bundle] = (),
    otherwise: Sequence[Bundle] = (),
    skipped: Sequence[Skipped] = (),
    machine: Machine | None = None,
) -> Iterator[Opened]:
    """The first engine, in order of preference, that works here: entered and self-tested.

    Args:
        bundle: Whose engines are tried in the manifest's order.
        settings: Threads, cache, largest batch.
        derived: Bundles with engines that this machine compiled for itself, tried before: they were made to fit it.
        otherwise: The same, tried after all others: better than none.
        skipped: Engines that are known not to serve.
        machine: What is compared with the engines' targets; this one by default.

    Raises:
        EngineError: none does.
    """
    machine = machine or this_machine()
    passed_over = list(skipped)
    for one, entry in [(each, entry) for each in (*derived, bundle, *otherwise) for entry in each.manifest.engines]:
        with ExitStack() as stack:
            try:
                if reason := misfit(entry, machine):
                    raise EngineError(reason)
                backend = stack.enter_context(FACTORIES[entry.flavour](one, entry, settings))
                difference = self_test(backend, one, settings.max_batch, entry, most=START_WINDOWS)
            except EngineError as error:
                passed_over.append(Skipped(f"{entry.flavour}-{entry.precision}", str(error).rstrip(".")))
                log.warning("engine_skipped", flavour=entry.flavour, precision=entry.precision, reason=str(error))
                continue
            log.info("engine_ready", engine=backend.name, model=one.manifest.model_id, golden_difference=difference)
            yield Opened(backend, one, entry, tuple(passed_over), difference)
            return
    raise EngineError(
        f"bundle {bundle.manifest.model_id} has no engine that works on this machine: "
        + "; ".join(f"{one.engine}: {one.reason}" for one in passed_over)
    )


def self_test(
    backend: Backend, bundle: Bundle, max_batch: int, entry: Engine | None = None, *, most: int | None = None
) -> float:
    """Run the golden windows as the line does, alone and in batches; the largest difference of a probability.

    An engine in f32 is held to the golden answers' own tolerance, any other to the limit that the bundle's gate sets.
    ``most``: only so many windows, spread over them all, and the first alone.

    Raises:
        EngineError: it is beyond that: this engine, on this machine, is not the network that was validated.
    """
    manifest = bundle.manifest
    exact = entry is None or entry.precision == "f32"
    allowed = manifest.golden.tolerance if exact else manifest.limits.probability_max
    p = bundle.manifest.input.preprocessing
    chosen = np.arange(len(bundle.golden_windows))
    if most is not None:
        chosen = np.unique(np.linspace(0, chosen[-1], min(most, len(chosen))).round().astype(int))
    x = prepare(bundle.golden_windows[chosen], p.rate, p)
    answers = bundle.golden_probabilities[chosen]
    worst = 0.0
    for size in sorted({1, min(max_batch, len(x))}):
        for first in range(0, len(x) if most is None or size > 1 else 1, size):
            found = backend.infer(x[first : first + size])
            wanted = answers[first : first + size]
            if found.shape != wanted.shape:
                raise EngineError(
                    f"engine {backend.name} gives {found.shape[1:]} values per window but the manifest has "
                    f"{wanted.shape[1]} labels; compile the bundle again."
                )
            difference = np.abs(found - wanted).max()
            if not difference <= allowed:  # a NaN is no less wrong
                raise EngineError(
                    f"engine {backend.name} fails its self-test on this machine: a probability of a golden window is "
                    f"{difference:.2g} off, {allowed:.2g} allowed; copy the bundle again or compile it here."
                )
            worst = max(worst, float(difference))
    return worst
