"""The whole evaluation of simulated predictions: what is in it, what is None, and that it is the same again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from training.evaluation.assess import assess, curves, population
from training.evaluation.cases import Cases
from training.evaluation.metrics import OVERALL
from training.evaluation.study import Study, StudySettings
from training.evaluation.thresholds import Rule, Thresholds, choose

Simulate = Callable[..., Cases]
QUICK = StudySettings(model="test", resamples=150)


@pytest.fixture(scope="module")
def study(cases: Cases, simulate: Simulate) -> Study:
    return assess(cases, QUICK, validation=simulate(500, 9, prefix="v", sharpness=1.5))


def test_every_output_has_figures_or_a_reason(study: Study, cases: Cases) -> None:
    assert {output.name for output in study.outputs} == set(cases.names)
    for output in study.outputs:
        assert (output.auroc is None) == bool(output.lacking)
        if output.auroc is None:
            continue
        i = cases.names.index(output.name)
        known = cases.known(i)
        y, p = cases.truth[known, i], cases.probability[known, i]
        assert output.auroc.value == pytest.approx(roc_auc_score(y, p))
        assert output.auprc is not None
        assert output.auprc.value == pytest.approx(average_precision_score(y, p))
        for interval in (output.auroc.patients, output.auroc.records):
            assert interval is not None
            assert interval.lower <= output.auroc.value <= interval.upper
        assert output.auroc.patients != output.auroc.records, "two records a patient: two kinds of draws"
    assert not study.one_record_each


def test_outputs_with_too_few_patients_have_none(cases: Cases) -> None:
    found = assess(cases, replace(QUICK, minimum=30))
    thin = next(output for output in found.outputs if output.name == "Acute pericarditis")
    assert thin.lacking.endswith("30 needed")
    assert (thin.auroc, thin.auprc, thin.roc, thin.calibration) == (None, None, None, None)
    assert all(thin.name not in stratum.auroc for stratum in found.strata)
    pericarditis = next(g for g in found.groupings if g.name == "Pericarditis")
    assert (pericarditis.outputs, pericarditis.of) == (0, 1)
    assert pericarditis.macro_auroc is None
    assert pericarditis.micro_auroc is None


def test_groupings_are_means_and_pools(study: Study, cases: Cases) -> None:
    overall = next(g for g in study.groupings if g.name == OVERALL)
    values = [output.auroc.value for output in study.evaluated if output.auroc]
    assert overall.macro_auroc is not None
    assert overall.macro_auroc.value == pytest.approx(np.mean(values))
    known = (cases.truth >= 0) & ~np.isnan(cases.probability)
    assert overall.micro_auroc is not None
    assert overall.micro_auroc.value == pytest.approx(roc_auc_score(cases.truth[known], cases.probability[known]))
    one = next(g for g in study.groupings if g.name == "Pericarditis")
    label = next(output for output in study.outputs if output.name == "Acute pericarditis")
    assert one.micro_auroc == label.auroc


def test_rates_together_are_means_and_sums(study: Study, cases: Cases) -> None:
    overall = next(g for g in study.groupings if g.name == OVERALL)
    for rate in ("sensitivity", "specificity", "ppv", "npv", "f1"):
        values = [output.rates[rate].value for output in study.evaluated if output.rates[rate]]  # type: ignore[union-attr]
        found = overall.macro[rate]
        assert found is not None
        assert found.value == pytest.approx(np.mean(values))
    known = (cases.truth >= 0) & ~np.isnan(cases.probability)
    at = np.array([next(o.threshold for o in study.outputs if o.name == name) for name in cases.names])
    y, said, p = cases.truth[known] == 1, (cases.probability >= at)[known], cases.probability[known]
    expected = {"sensitivity": said[y].mean(), "specificity": 1 - said[~y].mean(), "ppv": y[said].mean()}
    expected |= {"npv": 1 - y[~said].mean(), "f1": f1_score(y, said), "brier": brier_score_loss(y, p)}
    for rate, value in expected.items():
        found = overall.micro[rate]
        assert found is not None
        assert found.value == pytest.approx(value)
        assert found.patients is not None
        assert found.patients.lower < value < found.patients.upper
    for output in study.evaluated:
        assert output.brier is not None
        assert output.calibration is not None
        assert output.brier.value == pytest.approx(output.calibration.brier.score)


def test_thresholds_and_scalings_come_from_validation(study: Study, simulate: Simulate) -> None:
    validation = simulate(500, 9, prefix="v", sharpness=1.5)
    chosen = choose(validation)
    for output in study.evaluated:
        assert output.threshold == chosen.value[validation.names.index(output.name)]
        assert output.rates["sensitivity"] is not None
        assert set(output.ppv_at) == {"0.001", "0.01", "0.05", "0.1", "0.2"}
    sinus = next(output for output in study.outputs if output.name == "Sinusal")
    assert sinus.temperature is not None
    assert sinus.temperature.temperature == pytest.approx(1.5, rel=0.4)
    assert sinus.prior is not None
    assert sinus.prior.prior == pytest.approx(0.7, abs=0.15)
    assert study.common_temperature == pytest.approx(1.5, rel=0.15)
    assert study.severity is not None
    assert study.fairness


def test_without_validation_nothing_is_chosen(cases: Cases) -> None:
    found = assess(cases, QUICK)
    assert found.thresholds == ""
    assert found.severity is None
    assert found.common_temperature is None
    for output in found.outputs:
        assert output.threshold is None
        assert output.rates == {}
        assert output.platt is None
    given = assess(cases, QUICK, thresholds=Thresholds(("Afib",), np.array([0.4]), "somebody's"))
    assert given.thresholds == "somebody's"
    assert [output.name for output in given.outputs if output.threshold is not None] == ["Afib"]


def test_shared_patients_are_refused_even_with_thresholds(cases: Cases) -> None:
    thresholds = Thresholds(("Afib",), np.array([0.4]), "somebody's")
    for given in (None, thresholds):
        with pytest.raises(ValueError, match="patients are in both the validation and the test cases"):
            assess(cases, QUICK, validation=cases, thresholds=given)
    with pytest.raises(ValueError, match="there are no test cases"):
        assess(cases.select(np.zeros(len(cases), bool)))


def test_strata_are_parts(study: Study, cases: Cases) -> None:
    assert {(s.kind, s.share.name) for s in study.strata} == {
        ("source", "ward"),
        ("source", "archive"),
        ("leads", "12 leads"),
        ("leads", "I II"),
    }
    ward = next(s for s in study.strata if s.share.name == "ward")
    use = cases.source == "ward"
    part = cases.select(use)
    known = part.known(0)
    assert ward.auroc["Afib"].value == pytest.approx(roc_auc_score(part.truth[known, 0], part.probability[known, 0]))
    assert ward.share.cases == use.sum()


def test_the_same_again(cases: Cases, study: Study, simulate: Simulate) -> None:
    validation = simulate(500, 9, prefix="v", sharpness=1.5)
    assert assess(cases, replace(QUICK, threads=2), validation=validation) == replace(
        study, settings=replace(QUICK, threads=2)
    )


def test_one_record_each_makes_both_intervals_one(simulate: Simulate) -> None:
    found = assess(simulate(300, per_patient=1), replace(QUICK, resamples=60))
    assert found.one_record_each
    for output in found.evaluated:
        assert output.auroc is not None
        assert output.auroc.patients == output.auroc.records


def test_options(cases: Cases) -> None:
    stratified = assess(cases, replace(QUICK, stratified=True, paper=False, rule=Rule("sensitivity", 0.9)))
    for output in stratified.evaluated:
        assert output.auroc is not None
        assert output.auroc.records is None
        assert output.auroc.patients is not None
        assert output.auroc.patients.void == 0
    weighed = assess(cases, replace(QUICK, weigh="patient", resamples=40))
    plain = assess(cases, replace(QUICK, resamples=40))
    assert weighed.outputs[0].auroc != plain.outputs[0].auroc


def test_curves_end_where_they_must(cases: Cases) -> None:
    roc, pr = curves(cases, [0, 1])
    assert (roc.x[0], roc.y[0]) == (0.0, 0.0)
    assert (roc.x[-1], roc.y[-1]) == (1.0, 1.0)
    assert pr.x[-1] == 1.0
    assert len(roc.x) <= 101
    area = np.trapezoid(roc.y, roc.x)
    known = (cases.truth[:, :2] >= 0) & ~np.isnan(cases.probability[:, :2])
    assert area == pytest.approx(roc_auc_score(cases.truth[:, :2][known], cases.probability[:, :2][known]), abs=0.01)


def test_who_was_evaluated(cases: Cases) -> None:
    found = population(cases)
    assert (found.cases, found.records, found.patients) == (600, 600, 300)
    assert sum(share.patients for share in found.sexes) == 300
    assert found.ages is not None
    assert found.age_unknown == len({p for p, age in zip(cases.patient, cases.age, strict=True) if np.isnan(age)})
    nobody = replace(cases, age=np.full(600, np.nan, np.float32))
    assert population(nobody).ages is None
