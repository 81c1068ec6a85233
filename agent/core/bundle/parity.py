"""How far an engine's answers are from the network's own: measured alike where engines are made and on the ward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.core.bundle.limits import Parity
from agent.core.bundle.manifest import Label, Manifest
from agent.core.ecg import FloatArray

BOUNDED = 6.0
"""Logits whose probability in single precision still tells them to 2e-5."""
_NEARLY = 1e-12


def parity_of(
    manifest: Manifest,
    wanted: FloatArray,
    found: FloatArray,
    *,
    f32: bool,
    auroc_change: float | None = None,
    alerts_differ: int | None = None,
) -> Parity:
    """The parity of answers ``found`` (n, n_labels) with those of fp32 torch, ``wanted`` (n, n_labels).

    ``f32``: the engine claims to compute in it, so its logits are held against the network's too. The last two need
    more than answers, so whoever has measured them gives them.
    """
    counted = list(manifest.counted)
    if not len(wanted):
        return Parity()
    labels = [manifest.labels[i] for i in counted]
    wanted, found = wanted[:, counted], sound(wanted, found)[:, counted]
    shift = shifts(wanted, found)
    return Parity(
        windows=len(wanted),
        probability_max=float(shift.max()),
        probability_p999=float(np.quantile(shift, 0.999)),
        logit_max=float(_logit_shifts(labels, wanted, found).max(initial=0.0)) if f32 else None,
        flips=int(flips(labels, wanted, found).sum(axis=0).max()),
        auroc_change=auroc_change,
        alerts_differ=alerts_differ,
    )


def sound(wanted: FloatArray, found: FloatArray) -> FloatArray:
    """``found`` with what is not finite as wrong as an answer can be."""
    worst = (wanted < 0.5).astype(np.float32)
    return np.where(np.isfinite(found), found, worst)


def shifts(wanted: FloatArray, found: FloatArray) -> NDArray[np.float64]:
    """Differences of answers; at most one, for a quantity has no other bound."""
    difference: NDArray[np.float64] = np.minimum(np.abs(found.astype(np.float64) - wanted), 1.0)
    return difference


def flips(labels: Sequence[Label], wanted: FloatArray, found: FloatArray) -> NDArray[np.bool_]:
    """(n, n_labels): where the two are on different sides of one of a label's thresholds."""
    out = np.zeros(wanted.shape, bool)
    for i, label in enumerate(labels):
        for cut in label.cuts:  # Python's float, as alerting compares
            out[:, i] |= (wanted[:, i].astype(np.float64) >= cut) != (found[:, i].astype(np.float64) >= cut)
    return out


def _logit_shifts(labels: Sequence[Label], wanted: FloatArray, found: FloatArray) -> NDArray[np.float64]:
    """Differences of logits where the wanted one is within `BOUNDED`; of quantities, of the answers themselves."""
    number = np.array([label.quantity is not None for label in labels])
    of_wanted, of_found = _logit(wanted[:, ~number]), _logit(found[:, ~number])
    bounded = np.abs(of_wanted) <= BOUNDED
    parts = (np.abs(of_found - of_wanted)[bounded], shifts(wanted[:, number], found[:, number]).ravel())
    return np.concatenate(parts)


def _logit(p: FloatArray) -> NDArray[np.float64]:
    within = np.clip(p.astype(np.float64), _NEARLY, 1.0 - _NEARLY)
    out: NDArray[np.float64] = np.log(within / (1.0 - within))
    return out
