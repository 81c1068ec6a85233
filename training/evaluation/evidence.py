"""Evidence: pooled out-of-fold figures with intervals over patients.

Every patient's windows are scored by the one network that never saw that patient. A patient counts once among the
positives (evenly over the windows that have the finding) and once among the negatives, however long the recording;
intervals come from drawing patients, not windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS, FloatArray, Lead
from training.data import WindowTable
from training.evaluation.ranking import patient_weights, weighted_auroc
from training.train.augment import LIMB

MIN_POSITIVE_PATIENTS = 20
MIN_LOWER_AUROC = 0.85
RESAMPLES = 1000
LEAD_SETS: Mapping[str, tuple[int, ...]] = {
    "twelve leads reduced to I, II, III": LIMB,
    "twelve leads reduced to II, V5": (LEADS.index(Lead.II), LEADS.index(Lead.V5)),
}
"""Beds with three electrodes (aVR, aVL and aVF follow from I and II), and with lead II and a chest lead, played on the
recordings that have all twelve: the same patients, so that the figures can be compared."""
POOLED, TWELVE_LEADS, TWO_LEADS = "pooled", "ten seconds of twelve leads", "continuous recordings of two leads"


@dataclass(frozen=True, slots=True)
class Score:
    """How well one label was recognised on unseen patients."""

    label: str
    auroc: float
    lower: float
    upper: float
    positive_patients: int
    negative_patients: int
    positive_windows: int
    negative_windows: int

    @property
    def is_evidence(self) -> bool:
        """Enough patients, and surely well above chance."""
        return self.positive_patients >= MIN_POSITIVE_PATIENTS and self.lower >= MIN_LOWER_AUROC


def score(
    label: str,
    probability: FloatArray,
    truth: NDArray[np.int8],
    patients: NDArray[np.str_],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Score | None:
    """Figures of one label from probabilities (n,), truth (n,) of 1, 0, -1 and patients (n,); None without both kinds.

    The interval is the 2.5 and 97.5 percentile over draws of patients with replacement.
    """
    use = (truth >= 0) & np.isfinite(probability)
    if not np.any(truth[use] == 1) or not np.any(truth[use] == 0):
        return None
    probability, truth = probability[use], truth[use]
    names, who = np.unique(patients[use], return_inverse=True)
    positive = patient_weights(truth == 1, who, len(names))
    negative = patient_weights(truth == 0, who, len(names))
    auroc = float(weighted_auroc(probability, positive, negative))
    rng = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for first in range(0, resamples, 50):
        rows = min(50, resamples - first)
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=rows)[:, who]
        draws[first : first + rows] = weighted_auroc(probability, positive * times, negative * times)
    lower, upper = np.nanpercentile(draws, [2.5, 97.5])
    has_positive = set(who[truth == 1].tolist())
    return Score(
        label=label,
        auroc=auroc,
        lower=float(lower),
        upper=float(upper),
        positive_patients=len(has_positive),
        negative_patients=len(set(who[truth == 0].tolist()) - has_positive),
        positive_windows=int(np.sum(truth == 1)),
        negative_windows=int(np.sum(truth == 0)),
    )


def groups(table: WindowTable) -> dict[str, NDArray[np.bool_]]:
    """Windows (n,) by which figures are given: all of them, each kind of recording and each source by itself.

    A figure over all could profit from a network that tells the kinds apart, were a label commoner in one of them.
    """
    return {
        POOLED: np.ones(len(table), bool),
        TWELVE_LEADS: ~table.continuous,
        TWO_LEADS: table.continuous,
        **{source_group(name): table.source == i for i, name in enumerate(table.sources)},
    }


def source_group(name: str) -> str:
    """Name of the group of a source's windows."""
    return f"source {name}"


def score_all(
    names: Sequence[str],
    probabilities: FloatArray,
    table: WindowTable,
    use: NDArray[np.bool_] | None = None,
    *,
    resamples: int = RESAMPLES,
) -> dict[str, Score]:
    """`score` of every label that has positive and negative windows among ``use`` (n,), in the labels' order."""
    use = np.ones(len(table), bool) if use is None else use
    scores = {}
    for i, name in enumerate(names):
        found = score(
            name, probabilities[use, i], table.labels[use, i], table.patient[use], resamples=resamples, seed=i
        )
        if found is not None:
            scores[name] = found
    return scores
