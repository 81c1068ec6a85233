"""What the published files' outputs mean: their task, the order of the 77 labels, the published thresholds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from agent.core.labels import LABEL_NAMES, SSL_ORDER
from training.importers.names import WeightsError
from training.models.kinds import DIAGNOSES, TASKS, Family
from training.models.published import biomarker_thresholds, thresholds_sl, thresholds_ssl

FILES: Mapping[str, str] = {
    r"lvef.*40|fevg.*40": "lvef_40",
    r"lvef.*50|fevg.*50": "lvef_50",
    r"af(ib)?_?5_?y": "af_5y",
    r"lqts_?type": "lqts_type",
    r"lqts": "lqts",
    r"lvef.*(mse|reg)": "lvef",
    r"77": DIAGNOSES,
}
"""How the published files and their folders are called, in the order in which they are tried."""


def task_of(path: Path, outputs: int) -> str:
    """The task of a file with that many outputs, by its name, or by its folder's.

    Raises WeightsError if neither says it.
    """
    for name in (path.stem.lower(), path.resolve().parent.name.lower()):
        for pattern, task in FILES.items():
            if re.search(pattern, name) and (len(TASKS[task]) == outputs or outputs == 2 == 2 * len(TASKS[task])):
                return task
    if outputs == len(LABEL_NAMES):
        return DIAGNOSES
    raise WeightsError(
        f"nothing says what its {outputs} output{'s are' if outputs > 1 else ' is'}: "
        f"pass --task (one of {', '.join(TASKS)}, or a name of your own with --labels)"
    )


def labels_of(family: Family, task: str, order: Literal["sl", "ssl"] | None) -> tuple[str, ...] | None:
    """Names of the outputs in their order, None for a task of the user's own.

    The published DeepECG-SSL has the 77 labels in another order than DeepECG-SL, and its folder says so.
    """
    if task == DIAGNOSES:
        return SSL_ORDER if (order or ("ssl" if family == "ssl" else "sl")) == "ssl" else LABEL_NAMES
    return TASKS.get(task)


def thresholds_for(family: Family, task: str, labels: tuple[str, ...]) -> tuple[float | None, ...] | None:
    """The published thresholds in the order of the labels; None where none was published.

    Of 77 diagnoses Youden's (``77_tasks_final.json``), of the biomarkers ``digital_biomarker_final.json``.
    """
    if task == DIAGNOSES:
        in_sl_order = dict(zip(LABEL_NAMES, thresholds_sl() if family == "sl" else thresholds_ssl(), strict=True))
        return tuple(None if np.isnan(in_sl_order[label]) else float(in_sl_order[label]) for label in labels)
    known = biomarker_thresholds("SL" if family == "sl" else "SSL")
    if task not in TASKS or not any(label in known for label in labels):
        return None
    return tuple(known.get(label) for label in labels)
