"""What a network learns: the truth of a task, window by window, and how well outputs fit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from agent.core.ecg import FloatArray
from training.data import WindowTable
from training.models.kinds import DIAGNOSES, TASKS

Truth = NDArray[Any]
"""(n, L): int8 of 1, 0, -1 = unknown; of a regression float32 with NaN = unknown."""

REGRESSION = "lvef"
"""The one task whose output is a number: the ejection fraction in percent."""

CUTS: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.bool_]]] = {
    "lvef_40": lambda lvef: lvef <= 40.0,
    "lvef_50": lambda lvef: lvef < 50.0,
}
"""Tasks that ask whether the ejection fraction (target ``lvef``, percent) is low, as the paper cuts it."""


def outputs_of(task: str) -> tuple[str, ...]:
    """Names of the task's outputs; a task that the paper does not have is one target by its own name."""
    return TASKS.get(task, (task,))


def truth_of(table: WindowTable, task: str) -> Truth:
    """The truth of a task.

    A binary task reads the dataset's target of its own name, or cuts ``lvef`` where that is what is there.

    Raises:
        ValueError: the dataset has no such target, or one that is neither 0 nor 1.
    """
    if task == DIAGNOSES:
        return table.labels
    source = task if task in table.targets or task not in CUTS else REGRESSION
    if source not in table.targets:
        those = ", ".join(sorted(table.targets)) or "none"
        raise ValueError(f"the dataset has no target {source!r}, which {task!r} needs; it has: {those}")
    values = table.targets[source]
    if task == REGRESSION:
        return values[:, None]
    known = np.isfinite(values)
    if source == REGRESSION:
        there = CUTS[task](values)
    else:
        if not np.isin(values[known], (0.0, 1.0)).all():
            raise ValueError(f"target {task!r} holds values other than 0 and 1; prepare it as a yes or no")
        there = values == 1.0
    return np.where(known, there, -1).astype(np.int8)[:, None]


def is_known(truth: Truth) -> NDArray[np.bool_]:
    """(n, L): where something is known."""
    return np.isfinite(truth) if truth.dtype.kind == "f" else truth >= 0


def fit_of(outputs: FloatArray, truth: Truth) -> float:
    """How well outputs (n, L) fit, higher is better: the mean AUROC over the labels that have both kinds among these
    windows; of a regression the negative mean squared error. NaN where nothing can be said."""
    known = is_known(truth)
    if truth.dtype.kind == "f":
        return -float(np.mean((outputs - truth)[known] ** 2)) if known.any() else float("nan")
    aurocs = [
        roc_auc_score(truth[known[:, i], i], outputs[known[:, i], i])
        for i in range(truth.shape[1])
        if len(np.unique(truth[known[:, i], i])) == 2
    ]
    return float(np.mean(aurocs)) if aurocs else float("nan")
