"""What a bedside does to an ECG: fewer leads, other amplitudes, noise. Batches are in mV (B, 12, T)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS, FloatArray, Lead
from training.train.recipes import LeadPolicy

CHEST = tuple(i for i, lead in enumerate(LEADS) if lead.value.startswith("V"))
LIMB = tuple(i for i in range(len(LEADS)) if i not in CHEST)
II = LEADS.index(Lead.II)

Kind = Literal["all", "limb", "limb and a chest lead", "II", "II and a chest lead", "each by itself"]
"""``limb``: three electrodes give I, II, III, and aVR, aVL, aVF that follow from them; five give a chest lead too; ``II
and a chest lead`` is what Holter, telemetry and the MIT-BIH recordings have; ``each by itself`` drops every lead with a
probability of one half: random lead masking (Oh et al., CHIL 2022). There a window can lose all leads; here one stays,
which changes one twelve-lead window in 4096, but a quarter of those with two."""

POLICIES: Mapping[LeadPolicy, Mapping[Kind, float]] = {
    "all": {"all": 1.0},
    "bedside": {"all": 0.4, "limb": 0.15, "limb and a chest lead": 0.15, "II": 0.1, "II and a chest lead": 0.2},
    "limb": {"limb": 1.0},
    "two": {"II and a chest lead": 0.8, "II": 0.2},
    "random": {"each by itself": 1.0},
}
"""The sampling weight of each set of leads that a twelve-lead window is reduced to."""


def kept_leads(there: NDArray[np.bool_], policy: LeadPolicy, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(B, 12): the leads that stay of those that are ``there`` (B, 12).

    A window that lacks leads already (a two-lead recording) keeps what it has, but for one in ten that keeps II alone,
    and but for ``all`` (which changes nothing) and ``random`` (which drops what it drops).
    """
    n = len(there)
    kinds = list(POLICIES[policy])
    weights = np.array([POLICIES[policy][kind] for kind in kinds])
    drawn = rng.choice(len(kinds), n, p=weights / weights.sum())
    chest = rng.choice(CHEST, n)
    alone = rng.random(n) < 0.1
    coins = rng.random(there.shape) < 0.5
    if policy == "random":
        kept = there & coins
        last = np.where(there, rng.random(there.shape), -1.0).argmax(axis=1)
        kept[np.arange(n), last] |= ~kept.any(axis=1) & there.any(axis=1)
        return kept
    if policy == "all":
        return there
    keep = np.zeros_like(there)
    for i in range(n):
        kind = kinds[drawn[i]]
        if not there[i].all():
            keep[i] = there[i]
            if alone[i] and there[i, II]:
                keep[i] = np.arange(len(LEADS)) == II
            continue
        if kind == "all":
            keep[i] = True
        elif kind.startswith("limb"):
            keep[i, list(LIMB)] = True
        else:
            keep[i, II] = True
        if kind.endswith("chest lead"):
            keep[i, chest[i]] = True
    return keep & there


def reduce_leads(x: FloatArray, policy: LeadPolicy, rng: np.random.Generator) -> None:
    """Silence leads in place by `kept_leads`, so that the windows look like those of beds with fewer electrodes."""
    there = np.any(x != 0, axis=2)
    x[there & ~kept_leads(there, policy, rng)] = 0


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
