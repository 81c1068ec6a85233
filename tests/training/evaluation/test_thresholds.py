"""Operating points: what each rule promises, on whom it may be reported, and when it is uncertain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from training.evaluation.cases import Cases
from training.evaluation.metrics import confusion, rates
from training.evaluation.thresholds import Rule, Thresholds, apply, choose, choose_one

Simulate = Callable[..., Cases]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 200), st.sampled_from([3, 20, 10**6]))
def test_youden_is_that_of_the_roc_curve(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) < n // 2)
    p = (rng.integers(0, levels, n) / levels + 0.2 * y).astype(np.float32)
    value = choose_one(Rule(), p, y, np.ones(n))
    fpr, tpr, _ = roc_curve(y, p, drop_intermediate=False)
    index = np.mean(p[y] >= value) - np.mean(p[~y] >= value)
    assert index == pytest.approx((tpr - fpr)[1:].max())
    assert value in p


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(4, 200),
    levels=st.sampled_from([3, 20, 10**6]),
    kind=st.sampled_from(["sensitivity", "specificity", "ppv"]),
    at=st.floats(0.05, 1.0),
)
def test_a_fixed_figure_is_kept_and_no_better_threshold_keeps_it(
    seed: int, n: int, levels: int, kind: str, at: float
) -> None:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) < n // 3 + 1)
    p = (rng.integers(0, levels, n) / levels + 0.2 * y).astype(np.float32)
    value = choose_one(Rule(kind, at), p, y, np.ones(n))  # type: ignore[arg-type]

    def kept(t: float) -> bool:
        said = p >= t
        tp, fp = np.sum(said & y), np.sum(said & ~y)
        figure = {"sensitivity": tp / y.sum(), "specificity": 1 - fp / (~y).sum(), "ppv": tp / (tp + fp)}[kind]
        return bool(figure >= at - 1e-9) and bool(tp > 0)

    good = [t for t in np.unique(p).tolist() if kept(t)]
    if not good:
        assert np.isnan(value)
    else:
        assert value == (max(good) if kind == "sensitivity" else min(good))


def test_single_class_has_no_threshold() -> None:
    p = np.array([0.1, 0.9], np.float32)
    for y in ([True, True], [False, False]):
        assert np.isnan(choose_one(Rule(), p, np.array(y), np.ones(2)))


def test_what_is_chosen_holds_on_the_validation_cases(cases: Cases) -> None:
    chosen = choose(cases, Rule("sensitivity", 0.9))
    found = rates(confusion(cases, chosen.value))
    assert (found["sensitivity"] >= 0.9).all()
    assert chosen.origin == "sensitivity of at least 0.9, chosen on 300 validation patients"
    assert any("Chosen on fewer than 20 positive validation patients" in w for w in chosen.warnings)
    assert "Acute pericarditis (" in chosen.warnings[0]
    assert "Afib" not in chosen.warnings[0]


def test_outputs_without_a_threshold_are_named(cases: Cases) -> None:
    truth = cases.truth.copy()
    truth[:, 3] = 0
    flat = replace(cases, truth=truth, probability=np.full_like(cases.probability, 0.5))
    chosen = choose(flat, Rule("specificity", 0.5))
    assert np.isnan(chosen.value).all()
    assert any(
        w.startswith("No threshold without a positive and a negative") and "pericarditis" in w for w in chosen.warnings
    )
    assert any(w.startswith("No threshold has a specificity of at least 0.5: Afib") for w in chosen.warnings)


def test_long_lists_of_names_are_cut(cases: Cases) -> None:
    names = tuple(f"output {k}" for k in range(40))
    wide = {"probability": np.full((600, 40), 0.5, np.float32), "truth": np.zeros((600, 40), np.int8)}
    (warning,) = choose(replace(cases, names=names, **wide)).warnings
    assert warning.endswith("output 11 and 28 more.")


def test_patients_on_whom_they_were_chosen_are_refused(cases: Cases, simulate: Simulate) -> None:
    chosen = choose(simulate(400, 1, prefix="v"))
    decided = apply(chosen, cases)
    known = ~np.isnan(cases.probability)
    assert (decided[~known] == -1).all()
    np.testing.assert_array_equal(decided[known], (cases.probability >= chosen.value)[known])
    mixed = replace(cases, patient=np.where(np.arange(len(cases)) < 2, "v0", cases.patient))
    with pytest.raises(
        ValueError, match=r"1 patient is in both the validation and the test cases: .* split by patient"
    ):
        apply(chosen, mixed)


def test_files_hold_no_patients(cases: Cases, tmp_path: Path) -> None:
    truth = cases.truth.copy()
    truth[:, 3] = 0
    chosen = choose(replace(cases, truth=truth))
    chosen.save(tmp_path / "thresholds.json")
    text = (tmp_path / "thresholds.json").read_text("utf-8")
    assert "NaN" not in text
    assert "p17" not in text
    read = Thresholds.load(tmp_path / "thresholds.json")
    np.testing.assert_array_equal(read.of(cases.names), chosen.value)
    assert read.patients is None
    assert apply(read, cases).shape == cases.truth.shape
    assert np.isnan(read.of(("unheard of",))).all()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no thresholds at"):
        Thresholds.load(tmp_path / "none.json")
    for text in ("{", "[]", '{"origin": "x"}', '{"origin": "x", "thresholds": {"Afib": "high"}}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match="no file of thresholds"):
            Thresholds.load(tmp_path / "x.json")


def test_rules_are_read() -> None:
    assert Rule.parse("youden") == Rule()
    assert Rule.parse("sensitivity=0.9") == Rule("sensitivity", 0.9)
    assert str(Rule()) == "Youden's index"
    for text in ("best", "sensitivity", "sensitivity=2", "ppv=x", "youden=1"):
        with pytest.raises(ValueError, match="rule"):
            Rule.parse(text)
