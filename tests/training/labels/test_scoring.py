"""Scores against scikit-learn, intervals, confusions, and the readings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import precision_recall_fscore_support

from agent.core.labels import LABEL_NAMES, index_of
from training.labels.scoring import confusion_lines, confusions, doubt_said, score, scored_labels, table, union


def random_matrix(n: int, seed: int, values: tuple[int, ...] = (-1, 0, 1)) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(values, np.int8), size=(n, 77))


def test_against_scikit_learn() -> None:
    truth, read = random_matrix(400, 1), random_matrix(400, 2)
    scores = score(truth, read, [str(i) for i in range(400)], resamples=20)
    assert len(scores.labels) == 77
    f1s, tp, fp, fn = [], 0, 0, 0
    for k, s in enumerate(scores.labels):
        known = truth[:, k] >= 0
        p, r, f, _ = precision_recall_fscore_support(
            truth[known, k], read[known, k] == 1, average="binary", zero_division=0
        )
        assert (s.precision.value, s.recall.value, s.f1.value) == pytest.approx((p, r, f))
        assert s.support == np.sum(truth[known, k])
        assert s.tp + s.fp + s.fn + s.tn == known.sum()
        assert s.f1.lower <= s.f1.value <= s.f1.upper
        assert s.precision.lower <= s.precision.value <= s.precision.upper
        f1s.append(f)
        tp, fp, fn = tp + s.tp, fp + s.fp, fn + s.fn
    assert scores.macro_f1.value == pytest.approx(np.mean(f1s))
    assert scores.micro_f1.value == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_unknown_truth_is_not_scored_and_unknown_reading_is_no() -> None:
    truth, read = np.full((4, 77), -1, np.int8), np.full((4, 77), -1, np.int8)
    i = index_of("Afib")
    truth[:, i] = [1, 1, 0, -1]
    read[:, i] = [1, -1, -1, 1]
    (only,) = score(truth, read, list("abcd"), resamples=10).labels
    assert (only.label, only.tp, only.fp, only.fn, only.tn) == ("Afib", 1, 0, 1, 1)


def test_doubt_is_counted_apart_and_can_be_read_as_said() -> None:
    truth, read, doubt = np.full((3, 77), -1, np.int8), np.full((3, 77), -1, np.int8), np.zeros((3, 77), bool)
    i = index_of("Afib")
    truth[:, i] = [1, 1, 0]
    doubt[0, i] = True
    (only,) = score(truth, read, list("abc"), doubt, resamples=5).labels
    assert (only.fn, only.considered) == (2, 1)
    (other,) = score(truth, doubt_said(read, doubt), list("abc"), doubt, resamples=5).labels
    assert (other.tp, other.fn, other.considered) == (1, 1, 0)


def test_intervals_are_over_patients() -> None:
    """One patient with all the errors: drawing reports would hide how unsure that is."""
    n = 60
    truth, read = np.full((n, 77), -1, np.int8), np.full((n, 77), 0, np.int8)
    i = index_of("Afib")
    truth[:, i] = [1] * 40 + [0] * 20
    read[:30, i] = 1
    alone = score(truth, read, [str(k) for k in range(n)], resamples=300).labels[0].f1
    crowd = score(truth, read, ["x" if 30 <= k < 40 else str(k) for k in range(n)], resamples=300).labels[0].f1
    assert crowd.upper - crowd.lower > 1.2 * (alone.upper - alone.lower)


def test_the_same_seed_gives_the_same_intervals() -> None:
    truth, read, who = random_matrix(50, 3), random_matrix(50, 4), [str(i // 2) for i in range(50)]
    assert score(truth, read, who, resamples=60) == score(truth, read, who, resamples=60)


@settings(max_examples=30, deadline=None)
@given(arrays(np.int8, (6, 77), elements=st.sampled_from([-1, 0, 1])))
def test_a_perfect_reader(truth: np.ndarray) -> None:
    scores = score(truth, truth, list("abcdef"), resamples=5)
    assert [LABEL_NAMES[i] for i in scored_labels(truth)] == [s.label for s in scores.labels]
    assert all(s.f1.value == 1 and s.fp == s.fn == 0 for s in scores.labels)
    assert all(c.missed == c.false == 0 for c in confusions(truth, truth, list("abcdef")))


def test_confusions_name_what_was_given_instead_and_where() -> None:
    truth, read = np.zeros((5, 77), np.int8), np.zeros((5, 77), np.int8)
    left, right = index_of("Left bundle branch block"), index_of("Right bundle branch block")
    truth[:3, left], truth[3, right] = 1, 1
    read[0, left], read[1:4, right] = 1, 1
    found = {c.label: c for c in confusions(truth, read, [f"r{k}" for k in range(5)])}
    missed = found["Left bundle branch block"]
    assert (missed.missed, missed.missed_for, missed.missed_ids) == (
        2,
        (("Right bundle branch block", 2),),
        ("r1", "r2"),
    )
    false = found["Right bundle branch block"]
    assert (false.false, false.false_for, false.false_ids) == (2, (("Left bundle branch block", 2),), ("r1", "r2"))
    text = confusion_lines(list(found.values()))
    assert "Left bundle branch block: missed 2×; given instead: Right bundle branch block 2×; reports r1, r2" in text


def test_union_lets_the_dictionary_speak_first() -> None:
    words, network = np.array([[1, 0, -1, -1]], np.int8), np.array([[0, 1, 1, 0]], np.int8)
    assert union(words, network).tolist() == [[1, 0, 1, 0]]


def test_table_has_a_line_for_each_label() -> None:
    truth, read = random_matrix(30, 5), random_matrix(30, 6)
    text = table(score(truth, read, [str(i) for i in range(30)], resamples=10))
    assert len(text.splitlines()) == 77 + 2
    assert "macro F1" in text
