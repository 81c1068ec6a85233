"""Thresholds that the authors of DeepECG published for the 77 labels and the biomarkers; DeepECG-SSL's order in ours.

The JSON files in ``published/`` are copies of those of the public DeepECG code and its model cards (organisation
``heartwise``, Apache-2.0; Nolin-Lapalme et al., European Heart Journal 2026, ehaf1119), one entry a line:

``bert_thresholds.json``
    Of the report classifier ``Bert_diagnosis2classification``, .22 to .65, and of the categories.
``77_tasks_final.json``
    Youden thresholds of DeepECG-SL and DeepECG-SSL by label and category. "Acute pericarditis" is there only as its
    category, whose one label it is.
``digital_biomarker_final.json``
    Thresholds of the five digital biomarkers.

Every array is (77,) in the order of `agent.core.labels.LABELS` (DeepECG-SL's); names are compared `normalised`, because
the sources spell them irregularly ("avL", "- V1-V2", no-break spaces).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import FloatArray
from agent.core.labels import LABELS, SSL_INDEX_FROM_SL, normalised
from training.data.recording import Labels

Array = NDArray[np.float64]
Network = Literal["SL", "SSL"]

BIOMARKERS = ("iAF5", "LVEF ≤ 40", "LVEF < 50", "LQTS", "LQTS TYPE")
"""As published: 5-year incident AF, LVEF ≤ 40 %, LVEF < 50 %, long-QT syndrome, its type (LQT1 against LQT2)."""

_CATEGORY_OF = {"Acute pericarditis": "PERICARDITIS"}
"""Labels that `77_tasks_final.json` has under their category alone."""


def _read(name: str) -> dict[str, Any]:
    text = (resources.files("training.models") / "published" / f"{name}.json").read_text("utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def _in_order(numbers: Mapping[str, float | None]) -> Array:
    """(77,) in the order of ``LABELS``; None becomes NaN."""
    by_name = {normalised(name): number for name, number in numbers.items()}
    values = (by_name[normalised(label.name)] for label in LABELS)
    array = np.array([np.nan if value is None else value for value in values])
    array.setflags(write=False)
    return array


def ssl_to_sl(probabilities: FloatArray) -> FloatArray:
    """(…, 77) outputs of DeepECG-SSL in the order of DeepECG-SL's, which is that of ``LABELS``. A copy.

    Raises:
        ValueError: the last axis is not 77 long.
    """
    if probabilities.shape[-1] != len(LABELS):
        raise ValueError(
            f"{probabilities.shape[-1]} outputs for 77 labels: give the 77-label head's, not a biomarker head's"
        )
    ordered: FloatArray = probabilities[..., list(SSL_INDEX_FROM_SL)]
    return ordered


@cache
def _tasks(network: Network) -> Array:
    tasks = _read("77_tasks_final")
    key = f"{network}_sens_spec_threshold"
    return _in_order({label.name: tasks[_CATEGORY_OF.get(label.name, label.name)][key] for label in LABELS})


def thresholds_sl() -> Array:
    """(77,) of DeepECG-SL's probabilities, Youden."""
    return _tasks("SL")


def thresholds_ssl() -> Array:
    """(77,) of DeepECG-SSL's probabilities **in SL order** (use `ssl_to_sl` first), Youden."""
    return _tasks("SSL")


@cache
def bert_thresholds() -> Array:
    """(77,) of the report classifier's probabilities."""
    numbers = _read("bert_thresholds")
    return _in_order({name: entry["threshold"] for name, entry in numbers.items() if "threshold" in entry})


def biomarker_thresholds(network: Network) -> dict[str, float]:
    """Threshold of each of `BIOMARKERS`."""
    numbers = _read("digital_biomarker_final")
    return {name: float(numbers[name][f"{network}_sens_spec_threshold"]) for name in BIOMARKERS}


def labels_at(probabilities: NDArray[np.floating[Any]], thresholds: Array) -> Labels:
    """(…, 77) int8: 1 from the threshold on, 0 below it, -1 where the label has no threshold (NaN)."""
    said = (probabilities >= thresholds).astype(np.int8)
    said[..., np.isnan(thresholds)] = -1
    return said
