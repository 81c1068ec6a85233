"""Figures against scikit-learn, with unknown truths, missing scores, single classes and several records a patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from agent.core.labels import LABEL_NAMES
from training.evaluation.cases import Cases
from training.evaluation.metrics import (
    OVERALL,
    Counts,
    category_of,
    cells,
    confusion,
    counts,
    groupings,
    macro,
    micro,
    ordered,
    rates,
    scores,
    weights,
)


def test_scores_are_those_of_scikit_learn(cases: Cases) -> None:
    found = scores(cases)
    briers = rates(confusion(cases, np.full(len(cases.names), np.nan)))["brier"]
    assert set(found) == set(cases.names)
    pooled_y, pooled_p = [], []
    for i, name in enumerate(cases.names):
        known = cases.known(i)
        y, p = cases.truth[known, i], cases.probability[known, i]
        assert found[name].auroc == pytest.approx(roc_auc_score(y, p))
        assert found[name].auprc == pytest.approx(average_precision_score(y, p))
        assert briers[i] == pytest.approx(brier_score_loss(y, p))
        pooled_y.append(y)
        pooled_p.append(p)
    together = micro(cases)
    mean = macro(found)
    assert together is not None
    assert mean is not None
    y, p = np.concatenate(pooled_y), np.concatenate(pooled_p)
    assert together.auroc == pytest.approx(roc_auc_score(y, p))
    assert together.auprc == pytest.approx(average_precision_score(y, p))
    assert mean.auroc == pytest.approx(np.mean([score.auroc for score in found.values()]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_rates_are_those_of_scikit_learn(simulate: Callable[..., Cases], seed: int, threshold: float) -> None:
    cases = simulate(80, seed)
    at = np.array([threshold, threshold, np.nan, threshold, threshold, 0.5])
    found = rates(confusion(cases, at))
    for i in (0, 1, 4):
        known = cases.known(i)
        y, said = cases.truth[known, i], cases.probability[known, i] >= at[i]
        if not y.any() or y.all():
            continue
        assert found["sensitivity"][i] == pytest.approx(recall_score(y, said))
        assert found["specificity"][i] == pytest.approx(recall_score(1 - y, ~said))
        assert found["f1"][i] == pytest.approx(f1_score(y, said))
        assert found["flagged"][i] == pytest.approx(said.mean())
        if said.any():
            assert found["ppv"][i] == pytest.approx(precision_score(y, said))
        else:
            assert np.isnan(found["ppv"][i]), "nothing was found, so there is no predictive value, not zero"
        if not said.all():
            assert found["npv"][i] == pytest.approx(precision_score(1 - y, ~said))
    for name, values in found.items():
        assert np.isnan(values[2]) == (name != "brier"), f"{name} without a threshold"


def test_weighed_by_patient_each_counts_once(cases: Cases) -> None:
    w = weights(cases, [1, 0], "patient")[:, 1]
    positive = cases.known(0) & (cases.truth[:, 0] == 1)
    count = counts(cases)[0]
    assert w[positive].sum() == pytest.approx(count.positive_patients)
    negative = cases.known(0) & (cases.truth[:, 0] == 0)
    assert w[negative].sum() == pytest.approx(len(set(cases.patient[negative].tolist())))
    at = np.full(6, 0.5)
    sums = confusion(cases, at, "patient")
    found = cases.probability[:, 0] >= 0.5
    shares = [found[positive & (cases.patient == p)].mean() for p in np.unique(cases.patient[positive])]
    assert rates(sums)["sensitivity"][0] == pytest.approx(np.mean(shares))
    expected = roc_auc_score(cases.truth[w > 0, 0], cases.probability[w > 0, 0], sample_weight=w[w > 0])
    assert scores(cases, "patient")["Afib"].auroc == pytest.approx(expected)


def test_counts(cases: Cases) -> None:
    for i, count in enumerate(counts(cases)):
        known = cases.known(i)
        positive = set(cases.patient[known & (cases.truth[:, i] == 1)].tolist())
        negative = set(cases.patient[known & (cases.truth[:, i] == 0)].tolist()) - positive
        assert (count.positive_patients, count.negative_patients) == (len(positive), len(negative))
        assert count.positive + count.negative + count.unknown == len(cases)
        assert count.prevalence == pytest.approx(cases.truth[known, i].mean())


def test_what_is_lacking_is_said() -> None:
    assert Counts(9, 9, 0, 9, 9).lacking(5) == ""
    assert Counts(1, 900, 0, 1, 850).lacking(5) == "1 positive patient, 5 needed"
    assert Counts(0, 0, 9, 0, 0).lacking(5) == "never labelled or never scored"
    assert Counts(4, 3, 0, 4, 3).lacking(5) == "4 positive patients and 3 negative patients, 5 needed"
    assert Counts(0, 0, 9, 0, 0).prevalence is None


def test_single_class_and_unscored_outputs_have_no_score(cases: Cases) -> None:
    truth, probability = cases.truth.copy(), cases.probability.copy()
    truth[:, 0] = 0
    truth[:, 1] = 1
    probability[:, 2] = np.nan
    found = scores(replace(cases, truth=truth, probability=probability))
    assert set(found) == set(cases.names[3:])
    nothing = replace(cases, truth=np.full_like(truth, -1))
    assert scores(nothing) == {}
    assert macro({}) is None
    assert micro(nothing) is None
    assert np.isnan(rates(confusion(nothing, np.full(6, np.nan)))["brier"]).all()
    assert np.isnan(rates(confusion(nothing, np.full(6, 0.5)))["f1"]).all()


def test_groupings_hold_the_published_categories_and_severities() -> None:
    groups = groupings(LABEL_NAMES)
    assert [len(of) for of in groups.values()] == [17, 18, 5, 1, 14, 23, 41, 24, 12, 77]
    assert list(groups)[-1] == OVERALL
    assert groupings(["Own output"]) == {OVERALL: ("Own output",)}
    assert ordered(["Own output", "Acute MI", "Afib"]) == ["Afib", "Acute MI", "Own output"]
    assert category_of("Own output") == "Other outputs"


def test_cells_do_not_depend_on_how_they_are_cut(cases: Cases) -> None:
    at = np.full(6, 0.4)
    parts = [part for _, part in cells(cases, at, rows=7)]
    np.testing.assert_allclose(np.concatenate(parts).sum(axis=0), confusion(cases, at))
