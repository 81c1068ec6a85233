"""Preprocessing and the bundle's engine, in this process; and the process that times one engine for `speed`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agent.bench.measure import Numbers, resident_mb, times
from agent.core.ecg import LEADS, FloatArray
from agent.core.preprocessing import Preprocessing, prepare
from agent.engines.base import Backend
from agent.engines.bundles.bundle import UNSIGNED, Bundle, open_bundle
from agent.engines.select import FACTORIES, open_backend
from agent.engines.settings import EngineSettings

_RATE = 500.0
_BATCHES = ((1, 30), (8, 6), (32, 2))
"""Batch size and runs of it."""


def preprocessing(bundle: Bundle) -> Numbers:
    """Windows per second on one core: 64 windows of 12 x 5000 at 500 Hz to the network's input."""
    p = bundle.manifest.input.preprocessing
    n = round(_RATE * p.seconds)
    windows = np.random.default_rng(0).normal(0, 0.5, (64, len(LEADS), n)).astype(np.float32)
    prepare(windows, _RATE, p)
    wall, cpu = times(lambda: prepare(windows, _RATE, p), 15)
    return {
        "windows_per_cpu_second": round(64e3 / statistics.median(cpu)),
        "windows_per_second": round(64e3 / statistics.median(wall)),
        "best_windows_per_second": round(64e3 / min(wall)),
    }


def inference(bundle: Bundle) -> Numbers:
    """Milliseconds per window through the bundle's first engine that fits, by threads and batch."""
    results: Numbers = {}
    p = bundle.manifest.input.preprocessing
    for threads in (1, 2):
        with open_backend(bundle, EngineSettings(threads=threads)) as backend:
            taken = _batches(backend, p, _BATCHES)
        results[f"threads_{threads}"] = {f"batch_{batch}": _per_window(t, int(batch)) for batch, t in taken.items()}
    return results


def noise(p: Preprocessing, batch: int) -> FloatArray:
    """(batch, 12, T) in the network's units."""
    shape = (batch, len(LEADS), round(p.rate * p.seconds))
    x: FloatArray = np.random.default_rng(0).normal(0, 60, shape).astype(np.float32)
    return x


def _batches(backend: Backend, p: Preprocessing, plan: Sequence[tuple[int, int]]) -> Numbers:
    results: Numbers = {}
    for batch, repeats in plan:
        x = noise(p, batch)
        backend.infer(x)
        wall, cpu = times(lambda x=x: backend.infer(x), repeats)  # type: ignore[misc]
        results[str(batch)] = {"wall_ms": wall, "cpu_ms": cpu}
    return results


def _per_window(taken: Mapping[str, Sequence[float]], batch: int) -> Numbers:
    wall = statistics.median(taken["wall_ms"]) / batch
    return {
        "ms_per_window": round(wall, 3),
        "cpu_ms_per_window": round(statistics.median(taken["cpu_ms"]) / batch, 3),
        "windows_per_second": round(1e3 / wall, 1),
    }


def main(arguments: Sequence[str]) -> None:
    """The process: bundle, number of the engine, threads, when it was started, pairs of batch and repeats; one line of
    JSON. What it does is what a bed waits for at a start: interpreter, libraries, checksums, loading, one window."""
    path, number, threads, began, *plan = arguments
    bundle = open_bundle(Path(path), UNSIGNED)  # made by the benchmark itself
    entry = bundle.manifest.engines[int(number)]
    p = bundle.manifest.input.preprocessing
    pairs = [(int(batch), int(repeats)) for batch, repeats in zip(plan[::2], plan[1::2], strict=True)]
    with FACTORIES[entry.flavour](bundle, entry, EngineSettings(threads=int(threads))) as backend:
        backend.infer(noise(p, 1))
        start = time.time() - float(began)
        first_mb, most_mb = resident_mb()
        taken = _batches(backend, p, pairs)
    told = {"start_seconds": start, "first_mb": first_mb, "start_most_mb": most_mb, "batches": taken}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
