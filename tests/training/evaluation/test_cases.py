"""Predictions in and out of files, what is refused, and what is doubted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from agent.core.labels import LABEL_NAMES
from training.data import WindowTable
from training.evaluation.cases import Cases, same_cases, shared_patients

Simulate = Callable[..., Cases]


def assert_equal(a: Cases, b: Cases) -> None:
    assert a.names == b.names
    for field in fields(a):
        if field.name != "names":
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def test_what_is_saved_is_read(cases: Cases, tmp_path: Path) -> None:
    cases.save(tmp_path / "run" / "predictions.npz")
    assert_equal(Cases.load(tmp_path / "run" / "predictions.npz"), cases)


def csv_of(cases: Cases, path: Path) -> Path:
    import pandas as pd

    leads = [
        " ".join(np.array(["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"])[m])
        for m in cases.leads
    ]
    table = {
        "patient": cases.patient,
        "record": cases.record,
        "source": cases.source,
        "sex": ["female" if sex == "F" else sex for sex in cases.sex],
        "age": cases.age,
        "leads": leads,
    }
    for i, name in enumerate(cases.names):
        table[f"probability:{name}"] = cases.probability[:, i].astype(str)
        table[f"truth:{name}"] = ["" if t < 0 else str(t) for t in cases.truth[:, i]]
    pd.DataFrame(table).to_csv(path, index=False, na_rep="")
    return path


def test_a_csv_says_the_same(cases: Cases, tmp_path: Path) -> None:
    assert_equal(Cases.load(csv_of(cases, tmp_path / "predictions.csv")), cases)


def test_a_csv_may_be_short_and_loosely_spelt(tmp_path: Path) -> None:
    path = tmp_path / "ours.csv"
    path.write_text("patient,probability:afib,truth:afib\n7,0.25,1\n8,,\n", "utf-8")
    read = Cases.load(path)
    assert read.names == ("Afib",)
    assert read.source.tolist() == ["ours", "ours"]
    assert read.record.tolist() == ["1", "2"]
    assert read.leads.all()
    assert np.isnan(read.probability[1, 0])
    assert read.truth[:, 0].tolist() == [1, -1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("patient,truth:Afib\n1,1\n", "has no column 'probability:NAME'"),
        ("probability:Afib,truth:Afib\n.5,1\n", "lacks the column 'patient'"),
        ("patient,probability:Afib\n1,.5\n", "lacks the column 'truth:Afib'"),
        ("patient,probability:Afib,truth:Afib\n1,high,1\n", "'high' in the column 'probability:Afib' is no number"),
        ("patient,probability:Afib,truth:Afib\n1,.5,2\n", "may hold 1, 0, and -1 or nothing"),
        ("patient,probability:Afib,truth:Afib\n1,1.5,1\n", "put logits through one sigmoid"),
        ("patient,sex,probability:Afib,truth:Afib\n1,1,.5,1\n", "'1' in the column 'sex' is neither M, F nor empty"),
        ("patient,leads,probability:Afib,truth:Afib\n1,I X9,.5,1\n", "'X9' in the column 'leads' is no lead"),
        ("patient,probability:Afib,truth:Afib\n,.5,1\n", "has no patient"),
        ("patient,probability:Afib,truth:Afib,probability: AFIB,truth: AFIB\n1,.5,1,.5,1\n", "'Afib' occurs twice"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_in_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Cases.load(path)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no predictions at"):
        Cases.load(tmp_path / "none.npz")
    for content in (b"", b"PK\x03\x04 cut", b"\x80\x04 a pickle"):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(ValueError, match="no file of predictions"):
            Cases.load(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", format=1, probability=np.zeros((1, 1)))
    with pytest.raises(ValueError, match="it lacks age, leads, names"):
        Cases.load(tmp_path / "y.npz")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"probability": np.full((600, 6), 1.2, np.float32)}, "has the probability 1.2"),
        ({"probability": np.full((600, 6), -3.0, np.float32)}, "put logits through one sigmoid"),
        ({"truth": np.full((600, 6), 2, np.int8)}, "neither 1"),
        ({"sex": np.full(600, "male")}, "neither 'M', 'F'"),
        ({"age": np.zeros(5, np.float32)}, "age has the shape"),
        ({"probability": np.zeros((600, 5), np.float32)}, "probability has the shape"),
        ({"names": ("Afib",) * 6}, "occurs twice"),
    ],
)
def test_what_cannot_be_true_is_refused(cases: Cases, change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        replace(cases, **change)


def test_a_sigmoid_applied_twice_is_caught(simulate: Simulate) -> None:
    """The reference's metrics put probabilities through another sigmoid: ranks survive that, thresholds do not."""
    once = simulate(300)
    assert not any("sigmoid" in doubt for doubt in once.doubts())
    twice = replace(once, probability=expit(once.probability).astype(np.float32))
    assert any("sigmoid was applied to probabilities" in doubt for doubt in twice.doubts())
    with pytest.raises(ValueError, match="one sigmoid"):
        replace(once, probability=np.log(once.probability / (1 - once.probability)))


def test_constant_and_missing_scores_are_told(simulate: Simulate) -> None:
    cases = simulate(100)
    flat = cases.probability.copy()
    flat[:, 2] = 0.25
    assert any(
        "The same probability for every case: Left axis deviation." in d
        for d in replace(cases, probability=flat).doubts()
    )
    nothing = replace(cases, probability=np.full_like(flat, np.nan))
    assert nothing.doubts() == ("No case is scored: every probability is NaN.",)


def test_from_a_table_of_windows(small_table: WindowTable) -> None:
    probability = np.full((len(small_table), len(LABEL_NAMES)), 0.5, np.float32)
    cases = Cases.from_table(small_table, probability, LABEL_NAMES)
    assert len(cases) == len(small_table)
    np.testing.assert_array_equal(cases.truth, small_table.labels)
    assert set(cases.source.tolist()) == set(small_table.sources)
    assert set(cases.lead_sets().tolist()) == {"12 leads", "II V1"}
    np.testing.assert_array_equal(cases.age, small_table.age)
    one = Cases.from_table(
        small_table, probability[:, :1], ["LVEF < 50"], truth=np.ones((len(small_table), 1), np.int8)
    )
    assert one.names == ("LVEF < 50",)


def test_selecting_keeps_columns_together(cases: Cases) -> None:
    women = cases.select(cases.sex == "F")
    assert set(women.sex.tolist()) == {"F"}
    assert set(women.record.tolist()) == set(cases.record[cases.sex == "F"].tolist())
    two = cases.outputs(["Own output", "Afib"])
    np.testing.assert_array_equal(two.probability, cases.probability[:, [5, 0]])
    assert len(shared_patients(cases, women)) == len(set(women.patient.tolist()))


def test_the_same_cases_are_brought_into_one_order(cases: Cases) -> None:
    turned = cases.select(np.random.default_rng(0).permutation(len(cases))).outputs(["Sinusal", "Afib"])
    back = same_cases(cases, turned)
    assert back.names == ("Afib", "Sinusal")
    np.testing.assert_array_equal(back.record, cases.record)
    np.testing.assert_array_equal(back.probability, cases.probability[:, :2])


def test_other_cases_are_no_pair(cases: Cases, simulate: Simulate) -> None:
    with pytest.raises(ValueError, match="no output in common"):
        same_cases(cases.outputs(["Afib"]), cases.outputs(["Sinusal"]))
    with pytest.raises(ValueError, match="600 and 599 cases"):
        same_cases(cases, cases.select(np.arange(599)))
    with pytest.raises(ValueError, match="other truths"):
        same_cases(cases, replace(cases, truth=np.zeros_like(cases.truth)))
    with pytest.raises(ValueError, match="do not hold the same records"):
        same_cases(cases, replace(cases, record=np.char.add("x", cases.record)))
    with pytest.raises(ValueError, match="other patients"):
        same_cases(cases, replace(cases, patient=np.char.add("x", cases.patient)))
