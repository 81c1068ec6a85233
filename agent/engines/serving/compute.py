"""One batch of windows through one engine: stacked, filtered, inferred. Used by one thread at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.core.bundle.manifest import Manifest
from agent.core.ecg import LEADS, FloatArray, Window
from agent.core.preprocessing import prepare
from agent.engines.base import Backend

_ON_DEVICE = ("torch-cuda",)
"""Flavours that filter on their device. For the others it is done here, so that both steps can be timed."""


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What became of a batch."""

    probabilities: FloatArray
    """(B, n_labels), read-only; NaN for a window that is not finite."""
    filtered: float
    """Seconds that filtering took; 0 where the device does it."""
    inferred: float
    """Seconds that the network took."""
    wrong: int
    """Windows that are finite and got an answer that is not: the engine's fault."""


class Computer:
    """Brings one model's windows into its engines. Keeps one buffer, as large as the largest batch so far."""

    def __init__(self, manifest: Manifest) -> None:
        self._preprocessing = manifest.input.preprocessing
        self._labels = len(manifest.labels)
        accepted = manifest.input.accepted_leads
        self._silent = [i for i, lead in enumerate(LEADS) if lead not in accepted]
        """Leads that training left silent: the network has never seen them."""
        self._buffer = np.empty(0, np.float32)

    def probe(self, backend: Backend, rounds: int = 3) -> float:
        """Seconds that one window takes: the best of some rounds, on silence."""
        p = self._preprocessing
        silence = np.zeros((1, len(LEADS), round(p.rate * p.seconds)), np.float32)
        times = [self._run(backend, silence, p.rate) for _ in range(rounds)]
        return min(done.filtered + done.inferred for done in times)

    def run(self, backend: Backend, windows: Sequence[Window]) -> Computed:
        """The answers to windows of one rate."""
        return self._run(backend, self._stack(windows), windows[0].rate)

    def _run(self, backend: Backend, x: FloatArray, rate: float) -> Computed:
        began = time.perf_counter()
        if backend.name.startswith(_ON_DEVICE):
            filtered = began
            probabilities = backend.infer_raw(x, rate)
        else:
            x = prepare(x, rate, self._preprocessing)
            filtered = time.perf_counter()
            # Some networks' activations turn a NaN into a plausible number, so it must not come that far.
            with np.errstate(invalid="ignore", over="ignore"):
                sound = np.isfinite(x.sum(axis=(1, 2)))
            if sound.all():
                probabilities = backend.infer(x)
            else:
                probabilities = np.full((len(x), self._labels), np.nan, np.float32)
                if sound.any():
                    probabilities[sound] = backend.infer(x[sound])
        inferred = time.perf_counter() - filtered
        unanswered = ~np.isfinite(probabilities).all(axis=1)
        wrong = int(np.isfinite(x[unanswered]).all(axis=(1, 2)).sum()) if unanswered.any() else 0
        probabilities.flags.writeable = False
        return Computed(probabilities, filtered - began, inferred, wrong)

    def _stack(self, windows: Sequence[Window]) -> FloatArray:
        """(B, 12, samples). The engine keeps nothing of it, so the memory can be used again."""
        first = windows[0].samples
        if len(windows) == 1 and not self._silent:
            return first[np.newaxis]
        needed = len(windows) * first.size
        if self._buffer.size < needed:
            self._buffer = np.empty(needed, np.float32)
        x = self._buffer[:needed].reshape(len(windows), *first.shape)
        np.stack([window.samples for window in windows], out=x)
        x[:, self._silent] = 0.0
        return x
