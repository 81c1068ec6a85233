"""What a bedside does to an ECG: fewer leads, other amplitudes, noise. Batches are in mV (B, 12, T)."""

from __future__ import annotations

import numpy as np

from agent.core.ecg import LEADS, FloatArray, Lead

CHEST = tuple(i for i, lead in enumerate(LEADS) if lead.value.startswith("V"))
LIMB = tuple(i for i in range(len(LEADS)) if i not in CHEST)
II = LEADS.index(Lead.II)

SETS: tuple[tuple[float, str], ...] = (
    (0.40, "all"),
    (0.15, "limb"),  # three electrodes: I, II, III, and aVR, aVL, aVF that follow from them
    (0.15, "limb and a chest lead"),  # five electrodes
    (0.10, "II"),
    (0.20, "II and a chest lead"),  # as Holter and telemetry, and the MIT-BIH recordings
)
"""Chance of each set of leads that a twelve-lead window is reduced to."""


def reduce_leads(x: FloatArray, rng: np.random.Generator) -> None:
    """Silence leads in place, so that the windows look like those of beds with fewer electrodes.

    A window that lacks leads already (a two-lead recording) keeps what it has, but for one in ten that keeps II alone.
    """
    chances = np.array([chance for chance, _ in SETS])
    kinds = rng.choice(len(SETS), len(x), p=chances / chances.sum())
    chest = rng.choice(CHEST, len(x))
    alone = rng.random(len(x)) < 0.1
    for window, kind, v, only_ii in zip(x, kinds, chest, alone, strict=True):
        there = np.any(window != 0, axis=1)
        if not there.all():
            if only_ii and there[II]:
                window[[i for i in range(len(LEADS)) if i != II]] = 0
            continue
        name = SETS[kind][1]
        keep: set[int] = set(range(len(LEADS)))
        if name.startswith("limb"):
            keep = set(LIMB)
        elif name.startswith("II"):
            keep = {II}
        if name.endswith("chest lead"):
            keep.add(int(v))
        window[[i for i in range(len(LEADS)) if i not in keep]] = 0


def disturb(x: FloatArray, rng: np.random.Generator, rate: float) -> None:
    """Change amplitude and add noise and wander, in place. Missing leads stay exact zeros."""
    b, leads, t = x.shape
    there = np.any(x != 0, axis=2, keepdims=True)
    x *= np.exp(rng.normal(0, 0.1, (b, 1, 1)) + rng.normal(0, 0.05, (b, leads, 1))).astype(np.float32)
    # White noise up to 0.04 mV rms in half of the windows, wander of 0.3 to 1 Hz up to 0.15 mV in a third.
    level = 0.04 * rng.random((b, 1, 1)) ** 2 * (rng.random((b, 1, 1)) < 0.5)
    x += there * (level.astype(np.float32) * rng.standard_normal((b, leads, t), np.float32))
    size = 0.15 * rng.random((b, leads, 1)) * (rng.random((b, 1, 1)) < 0.33)
    phase = 2 * np.pi * (rng.uniform(0.3, 1.0, (b, 1, 1)) * np.arange(t) / rate + rng.random((b, 1, 1)))
    x += there * (size * np.sin(phase)).astype(np.float32)
