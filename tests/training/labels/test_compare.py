"""The readers side by side on a handful of reports whose answers are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agent.core.labels import index_of
from training.labels.compare import CLASSIFIER, DICTIONARY, DOUBT, UNION, Comparison, compare, group_of
from training.labels.reports import Report

AF, LBBB, LVH = (index_of(name) for name in ("Afib", "Left bundle branch block", "Left ventricular hypertrophy"))
ROWS = [
    ("Vorhofflimmern, LSB", (1, 1, 0)),
    ("Sinusrhythmus, V.a. LVH", (0, 0, 1)),
    ("Sinus rhythm with left bundle branch block", (0, 1, 0)),
    ("Atrial fibrillation is present", (1, 0, 0)),
    ("trace only requested", (0, 0, 1)),
    ("sinusrytm vänster el-axel", (0, -1, -1)),
]


def reports() -> list[Report]:
    out = []
    for i, (text, (af, lbbb, lvh)) in enumerate(ROWS):
        truth = np.full(77, -1, np.int8)
        truth[[AF, LBBB, LVH]] = af, lbbb, lvh
        out.append(Report(f"r{i}", f"p{i}", 8, text, truth))
    return out


@pytest.fixture(scope="module")
def found() -> Comparison:
    labels = np.full((len(ROWS), 77), 0, np.int8)
    labels[4, LVH] = 1
    labels[2, AF] = 1
    return compare(reports(), labels, resamples=20, words=3)


def counts(found: Comparison, reader: str, label: int) -> tuple[int, int, int]:
    by_label = {s.label: s for s in found.scores[reader]["all"].labels}
    s = next(s for name, s in by_label.items() if index_of(name) == label)
    return s.tp, s.fp, s.fn


def test_each_reader_gets_its_own_scores(found: Comparison) -> None:
    assert counts(found, DICTIONARY, AF) == (2, 0, 0)
    assert counts(found, DICTIONARY, LVH) == (0, 0, 2)
    assert counts(found, DOUBT, LVH) == (1, 0, 1)
    assert counts(found, CLASSIFIER, LVH) == (1, 0, 1)
    assert counts(found, CLASSIFIER, AF) == (0, 1, 2)
    assert counts(found, UNION, AF) == (2, 0, 0)  # the dictionary speaks: sinus rhythm excludes fibrillation
    assert counts(found, UNION, LVH) == (1, 0, 1)


def test_languages_and_what_was_not_recognised(found: Comparison) -> None:
    assert [group_of(text) for text, _ in ROWS] == ["German", "German", "English", "English", "English", "Swedish"]
    assert found.reports == {"English": 3, "German": 2, "Swedish": 1}
    assert found.nothing == {"English": 1, "German": 0, "Swedish": 0}
    assert found.scores[DICTIONARY]["German"].reports == 2
    assert group_of("LBBB") == "untold"


def test_it_is_told_in_json_and_in_words(found: Comparison) -> None:
    told = json.loads(json.dumps(found.as_json()))
    assert set(told["scores"]) == {DICTIONARY, DOUBT, CLASSIFIER, UNION}
    assert "closed reading" in told["reading"]
    missed = next(c for c in told["confusions"][DICTIONARY] if c["label"] == "Left ventricular hypertrophy")
    assert missed["missed_ids"] == ["r1", "r4"]
    text = found.as_text()
    for part in ("== union ==", "F1 by language", "French", "nothing recognised in 1 of 6", "missed 2×"):
        assert part in text
    assert all(report not in text for report, _ in ROWS)


def test_reports_without_truth_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="no reports with labels to score against"):
        compare([Report("1", "1", None, "LSB", None)])
    with pytest.raises(ValueError, match="no reports with labels to score against"):
        compare([])
