"""A record's worst finding, true and predicted, with labels that are unknown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from agent.core.labels import LABEL_NAMES
from training.evaluation.intervals import resample
from training.evaluation.severity import kappa, severities, severity_figures, worst

NAMES = ("Afib", "Bradycardia", "Sinusal", "Own output")
PATHOLOGICAL, BORDERLINE, NORMAL = 2, 1, 0


def test_the_published_counts() -> None:
    assert np.bincount(severities(LABEL_NAMES)).tolist() == [12, 24, 41]
    assert severities(NAMES).tolist() == [2, 1, 0, -1]


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], (PATHOLOGICAL, PATHOLOGICAL)),
        ([0, 1, 1, 1], [0, 1, 1, 1], (BORDERLINE, BORDERLINE)),
        ([0, 0, 1, 1], [0, 0, 0, 1], (NORMAL, NORMAL)),  # the own output has no severity
        ([0, 1, 0, 0], [1, 0, 0, 0], (BORDERLINE, PATHOLOGICAL)),
        ([-1, 1, 0, 0], [1, 1, 0, 0], (-1, -1)),  # no pathological label is known: a borderline truth may be worse
        (
            [1, -1, 0, 0],
            [0, 1, 0, 0],
            (PATHOLOGICAL, NORMAL),
        ),  # pathological is known; the unknown label does not count
        ([0, 0, 1, 0], [-1, 0, 1, 0], (-1, -1)),  # no threshold for the pathological one
        ([-1, -1, -1, -1], [1, 1, 1, 1], (-1, -1)),
    ],
)
def test_worst(truth: list[int], found: list[int], expected: tuple[int, int]) -> None:
    true, predicted, _ = worst(NAMES, np.array([truth], np.int8), np.array([found], np.int8))
    assert (int(true[0]), int(predicted[0])) == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 80))
def test_kappa_is_that_of_scikit_learn(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 3, (2, n))
    matrix = np.zeros((3, 3))
    np.add.at(matrix, (a, b), 1)
    if len(set(a.tolist()) | set(b.tolist())) > 1:
        assert float(kappa(matrix)) == pytest.approx(cohen_kappa_score(a, b))
        assert float(kappa(matrix, quadratic=True)) == pytest.approx(cohen_kappa_score(a, b, weights="quadratic"))
    assert np.isnan(kappa(np.diag([5.0, 0, 0])))


def test_figures_of_many_records() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((400, 4)) < [0.3, 0.4, 0.8, 0.5]).astype(np.int8)
    found = np.where(rng.random(truth.shape) < 0.85, truth, 1 - truth).astype(np.int8)
    truth[:20, 0] = -1
    who = np.arange(400) // 2
    result = severity_figures(NAMES, truth, found, {"patients": resample(who, 200, 0)})
    assert result is not None
    true, predicted, _ = worst(NAMES, truth, found)
    matrix = np.array(result.matrix)
    assert matrix.sum() == result.records == (true >= 0).sum()
    assert result.left_out == (true < 0).sum() > 0
    for t in range(3):
        for p in range(3):
            assert matrix[t, p] == np.sum((true == t) & (predicted == p))
    for figure in (result.accuracy, result.kappa, result.weighted_kappa, *result.recall, *result.precision):
        assert figure is not None
        assert figure.patients is not None
        assert figure.patients.lower < figure.value < figure.patients.upper
    assert result.recall[2] is not None
    assert result.recall[2].value == pytest.approx(matrix[2, 2] / matrix[2].sum())


def test_classes_that_never_occur_have_no_recall() -> None:
    truth, found = np.array([[0, 0, 1, 0]] * 5, np.int8), np.array([[0, 1, 1, 0]] * 5, np.int8)
    result = severity_figures(NAMES, truth, found, {"patients": resample(np.arange(5), 50, 0)})
    assert result is not None
    assert result.recall[1] is None
    assert result.recall[0] is not None
    assert result.precision[0] is None
    none = severity_figures(NAMES, np.full((5, 4), -1, np.int8), found, {"patients": resample(np.arange(5), 50, 0)})
    assert none is None
