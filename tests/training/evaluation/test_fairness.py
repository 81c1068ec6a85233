"""Differences between groups: where there are some, where there are none, and where there are too few to tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, recall_score, roc_auc_score

from training.evaluation.cases import Cases
from training.evaluation.fairness import MEAN, POOLED, Fairness, attributes, band_names, fairness
from training.evaluation.intervals import resample

AT = np.full(6, 0.5)


def by(found: tuple[Fairness, ...], output: str, attribute: str) -> Fairness:
    return next(f for f in found if f.output == output and f.attribute == attribute)


def biased(simulate: Callable[..., Cases], n: int, weaker: float) -> Cases:
    """Women's scores say less: their log-odds are ``weaker`` times what they were."""
    cases = simulate(n, 3)
    logit = np.log(cases.probability / (1 - cases.probability))
    women = (cases.sex == "F")[:, None]
    noise = np.random.default_rng(0).normal(0, 3.0 * (1 - weaker), logit.shape)
    return replace(cases, probability=expit(np.where(women, weaker * logit + noise, logit)).astype(np.float32))


def test_figures_of_a_group_are_those_of_its_cases(cases: Cases) -> None:
    found = by(fairness(cases, resample(cases.patient, 100, 0), AT), "Afib", "sex")
    women = next(group for group in found.groups if group.name == "women")
    use = (cases.sex == "F") & cases.known(0)
    y, p = cases.truth[use, 0], cases.probability[use, 0]
    assert women.tpr is not None
    assert women.fpr is not None
    assert women.auroc is not None
    assert women.auprc is not None
    assert women.tpr.value == pytest.approx(recall_score(y, p >= 0.5))
    assert women.fpr.value == pytest.approx(1 - recall_score(1 - y, p < 0.5))
    assert women.auroc.value == pytest.approx(roc_auc_score(y, p))
    assert women.auprc.value == pytest.approx(average_precision_score(y, p))
    assert women.prevalence == pytest.approx(y.mean())
    assert women.records == (cases.sex == "F").sum()
    for figure in (women.tpr, women.fpr, women.auroc, women.auprc):
        assert figure.patients is not None
        assert figure.patients.lower <= figure.value <= figure.patients.upper


def test_differences_add_up(cases: Cases) -> None:
    for found in fairness(cases, resample(cases.patient, 100, 0), AT):
        values = {g.name: {"tpr": g.tpr, "fpr": g.fpr, "auroc": g.auroc} for g in found.groups}
        for d in found.disparities:
            there = {name: v[d.figure].value for name, v in values.items() if v[d.figure] is not None}
            assert d.spread.value == pytest.approx(max(there.values()) - min(there.values()))
            assert there[d.highest] == max(there.values())
            assert there[d.lowest] == min(there.values())
            for name, difference in d.from_reference.items():
                assert difference.value == pytest.approx(there[name] - there[found.reference])
            if d.spread.at_most is not None:
                assert d.spread.at_most > 0
        if found.equalised_odds is not None:
            spreads = {d.figure: d.spread.value for d in found.disparities}
            assert found.equalised_odds.value == max(spreads["tpr"], spreads["fpr"])


def test_a_real_difference_is_found(simulate: Callable[..., Cases]) -> None:
    cases = biased(simulate, 4000, 0.3)
    found = by(fairness(cases, resample(cases.patient, 300, 0), AT), POOLED, "sex")
    auroc = next(d for d in found.disparities if d.figure == "auroc")
    assert (auroc.highest, auroc.lowest) == ("men", "women")
    assert auroc.verdict == "above .010"
    assert auroc.from_reference or found.reference == "women"


def test_no_difference_is_confirmed_with_many_and_undecided_with_few(simulate: Callable[..., Cases]) -> None:
    """One model for all: with 60,000 records the claim of less than .010 can be confirmed, with 600 it cannot."""
    many = simulate(60_000, 5).outputs(["Sinusal", "Own output"])
    found = by(fairness(many, resample(many.patient, 200, 0), np.full(2, 0.5), bands=(0.0, math.inf)), POOLED, "sex")
    assert {d.figure: d.verdict for d in found.disparities}["auroc"] == "below .010"
    few = simulate(600, 5)
    verdicts = [d.verdict for d in by(fairness(few, resample(few.patient, 200, 0), AT), POOLED, "sex").disparities]
    assert set(verdicts) == {"undecided"}


def test_too_few_are_told_not_measured(cases: Cases) -> None:
    found = by(fairness(cases, resample(cases.patient, 50, 0), AT, minimum=30), "Afib", "age")
    thin = [g for g in found.groups if g.positive_patients < 30]
    assert thin
    for group in thin:
        assert group.tpr is None
        assert group.auroc is None
        assert group.auprc is None
        assert "30 needed" in group.lacking
    nobody = fairness(cases, resample(cases.patient, 50, 0), AT, minimum=10**6)
    assert nobody == ()


def test_a_pool_has_figures_where_its_outputs_have_too_few_of_one_kind(cases: Cases) -> None:
    """Sinus rhythm gives the positives, pericarditis the negatives; pooled, there are enough of both."""
    two = cases.outputs(["Sinusal", "Acute pericarditis"])
    found = by(fairness(two, resample(two.patient, 50, 0), np.full(2, 0.5), minimum=12), POOLED, "sex and age")
    some = [g for g in found.groups if g.auroc is not None]
    assert some
    single = by(fairness(two, resample(two.patient, 50, 0), np.full(2, 0.5), minimum=12), "Acute pericarditis", "sex")
    assert all(g.auroc is None for g in single.groups)
    assert any(g.fpr is not None for g in single.groups)


def test_without_thresholds_there_are_no_rates(cases: Cases) -> None:
    found = fairness(cases, resample(cases.patient, 50, 0))
    assert all(g.tpr is None and g.fpr is None for f in found for g in f.groups)
    assert all(f.equalised_odds is None for f in found)
    assert any(g.auroc for f in found for g in f.groups)
    assert {d.figure for f in found for d in f.disparities} == {"auroc"}


def test_the_mean_is_over_the_same_outputs_in_every_group(cases: Cases) -> None:
    found = fairness(cases, resample(cases.patient, 50, 0), AT)
    mean = by(found, MEAN, "sex")
    single = [f for f in found if f.attribute == "sex" and f.output not in (POOLED, MEAN)]
    shared = [f for f in single if all(g.auroc for g in f.groups)]
    for k, group in enumerate(mean.groups):
        assert group.auroc is not None
        values = [f.groups[k].auroc.value for f in shared if f.groups[k].auroc]  # type: ignore[union-attr]
        assert group.auroc.value == pytest.approx(np.mean(values))


def test_groups(cases: Cases) -> None:
    groups = attributes(cases)
    assert list(groups) == ["sex", "age", "sex and age"]
    assert sum(mask.sum() for mask in groups["age"].values()) == (~np.isnan(cases.age)).sum()
    assert band_names() == ["under 18", "18–39", "40–64", "65–79", "80+"]
    unknown = replace(cases, sex=np.full(len(cases), ""), age=np.full(len(cases), np.nan, np.float32))
    assert attributes(unknown) == {}
    assert fairness(unknown, resample(cases.patient, 10, 0)) == ()


def test_a_reference_can_be_chosen(cases: Cases) -> None:
    drawn = resample(cases.patient, 20, 0)
    assert by(fairness(cases, drawn, AT, reference={"sex": "men"}), "Afib", "sex").reference == "men"
    with pytest.raises(ValueError, match="there is no group 'male' by sex; take one of women, men"):
        fairness(cases, drawn, AT, reference={"sex": "male"})
