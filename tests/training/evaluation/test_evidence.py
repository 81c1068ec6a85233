"""What counts as evidence, and that patients, not windows, are counted."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.evidence import Score, score


def test_score_counts_patients_and_ignores_the_unknown() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{i:02d}" for i in range(60)], 5)
    truth = np.where(np.repeat(np.arange(60) < 25, 5), 1, 0).astype(np.int8)
    p = (truth + rng.normal(0, 0.7, truth.size)).astype(np.float32)
    truth[::5] = -1
    p[::5] = 99.0  # whatever an unknown window says must not matter
    found = score("Afib", p, truth, patients, resamples=200)
    assert found is not None
    assert (found.positive_patients, found.negative_patients) == (25, 35)
    assert (found.positive_windows, found.negative_windows) == (100, 140)
    assert found.lower < found.auroc < found.upper
    assert 0.75 < found.auroc < 0.95
    assert score("Afib", p, np.abs(truth), patients) is not None
    assert score("Afib", p, np.minimum(truth, 0), patients) is None


@pytest.mark.parametrize(("patients", "lower", "evidence"), [(20, 0.85, True), (19, 0.99, False), (50, 0.849, False)])
def test_what_counts_as_evidence(patients: int, lower: float, evidence: bool) -> None:
    assert Score("Afib", 0.995, lower, 1.0, patients, 100, 100, 100).is_evidence is evidence
