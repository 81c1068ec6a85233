"""One engine in a process of its own, as the agent opens it: its answers, how soon, how fast and with how much memory.

    ran = run_engine(folder, 0, windows, threads=1)        # the engine that the manifest names first

What is measured has neither torch nor another engine in it: the process imports the agent's rooms and nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from agent.core.bundle.manifest import Engine
from agent.core.ecg import FloatArray
from agent.core.errors import DeepECGError
from agent.core.preprocessing import prepare
from agent.engines.base import Backend, EngineError
from agent.engines.bundles.bundle import UNSIGNED, Bundle, BundleError, open_bundle
from agent.engines.select import FACTORIES
from agent.engines.settings import EngineSettings

BATCHES = (1, 8)
"""Sizes that are timed where the engine takes any."""
_AT_ONCE = 64
_LEAST, _MOST, _WITHIN = 5, 50, 0.3
"""Rounds of each size, and seconds after which no further one begins."""
_REFUSED = 3
"""Exit status with a sentence; any other than 0 is a crash."""


class EngineRunError(DeepECGError):
    """The engine does not run, though nothing says that it is not for this machine; in one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """What an engine did."""

    golden: FloatArray
    """(k, n_labels) answers to the bundle's raw golden windows, filtered by the engine's own way."""
    answers: FloatArray
    """(n, n_labels) answers to the prepared windows."""
    start_seconds: float
    """From the start of the process to the first answer: interpreter, libraries, checksums, loading, one window."""
    memory_mb: float
    """Most resident memory of the process by the end of what was timed; 0 where the system does not tell."""
    milliseconds: dict[int, float]
    """By batch size: the median time of a whole batch."""


def run_engine(folder: Path, number: int, windows: Path, *, threads: int = 1) -> Ran:
    """Run an engine of the bundle in ``folder`` over its golden windows and over ``windows``.

    ``windows``: .npy, float32 (n, 12, T), prepared. ``number``: of the engine in the manifest, from 0.

    Raises:
        EngineRunError: it does not run.
    """
    with TemporaryDirectory(prefix="deepecg-") as place:
        out = Path(place) / "answers.npz"
        began = time.time()
        arguments = [folder, number, windows, out, threads, began]
        done = subprocess.run(
            [sys.executable, "-m", "training.publish.run_engine", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == _REFUSED:
            raise EngineRunError(done.stdout.strip())
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
            raise EngineRunError(f"its process ended with status {done.returncode} ({last[:200]})")
        told = json.loads(done.stdout.splitlines()[-1])
        with np.load(out, allow_pickle=False) as arrays:
            golden, answers = arrays["golden"], arrays["answers"]
    return Ran(
        golden=golden,
        answers=answers,
        start_seconds=told["start_seconds"],
        memory_mb=told["memory_mb"],
        milliseconds={int(size): value for size, value in told["milliseconds"].items()},
    )


def main(arguments: list[str]) -> None:
    """The process: prints one line of JSON, or a sentence with exit status `_REFUSED`."""
    folder, number, windows, out, threads, began = arguments
    try:
        bundle = open_bundle(Path(folder), UNSIGNED)
        entry = bundle.manifest.engines[int(number)]
        settings = EngineSettings(threads=int(threads))
        with FACTORIES[entry.flavour](bundle, entry, settings) as backend:
            p = bundle.manifest.input.preprocessing
            sample = prepare(bundle.golden_windows, p.rate, p)
            backend.infer(sample[:1])
            told: dict[str, object] = {"start_seconds": time.time() - float(began)}
            told["milliseconds"] = {size: _milliseconds(backend, sample, size) for size in _sizes(entry)}
            told["memory_mb"] = _most_resident()
            np.savez(out, golden=_golden(backend, bundle), answers=_answers(backend, Path(windows), bundle))
    except (EngineError, BundleError) as error:
        sys.stdout.write(f"{error}\n")
        raise SystemExit(_REFUSED) from error
    sys.stdout.write(json.dumps(told) + "\n")


def _sizes(entry: Engine) -> list[int]:
    return sorted({1, *(entry.batches or BATCHES)})


def _milliseconds(backend: Backend, sample: FloatArray, size: int) -> float:
    x = np.resize(sample, (size, *sample.shape[1:]))
    backend.infer(x)
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < _LEAST or (len(taken) < _MOST and time.perf_counter() - began < _WITHIN):
        start = time.perf_counter()
        backend.infer(x)
        taken.append(time.perf_counter() - start)
    return 1e3 * median(taken)


def _golden(backend: Backend, bundle: Bundle) -> FloatArray:
    rate = bundle.manifest.input.preprocessing.rate
    parts = [backend.infer_raw(bundle.golden_windows[part], rate) for part in _parts(len(bundle.golden_windows))]
    return np.concatenate(parts)


def _answers(backend: Backend, windows: Path, bundle: Bundle) -> FloatArray:
    x = np.load(windows, mmap_mode="r", allow_pickle=False)
    out = np.empty((len(x), len(bundle.manifest.labels)), np.float32)
    for part in _parts(len(x)):
        out[part] = backend.infer(np.array(x[part]))
    return out


def _parts(n: int) -> Iterator[slice]:
    return (slice(first, first + _AT_ONCE) for first in range(0, n, _AT_ONCE))


def _most_resident() -> float:
    """MB. By VmHWM, which begins anew with the program; the kernel's other figure remembers who started it."""
    try:
        text = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return 0.0
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return float(fields["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    main(sys.argv[1:])
