"""Which windows a further model gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.ecg import LEADS, Lead, Provenance, Window
from agent.engines.serving.cadence import Cadence

WindowMaker = Callable[..., Window]
M, D, X = Provenance.MEASURED, Provenance.DERIVED, Provenance.MISSING
ALL = (M,) * 12
LIMBS_FROM_TWO = (M, M, D, D, D, D)


@pytest.fixture(scope="module")
def window(make_window: WindowMaker) -> WindowMaker:
    blank = make_window(rate=1.0)

    def make(start: float = 0.0, **changes: Any) -> Window:
        return replace(blank, start=start, end=start + 10.0, **changes)

    return make


def look(cadence: Cadence, window: Window) -> bool:
    """As the batcher does it."""
    wanted = cadence.is_due(window) and cadence.is_good(window)
    if wanted:
        cadence.given(window)
    return wanted


def test_every_so_many_seconds_of_each_device(window: WindowMaker) -> None:
    cadence = Cadence(60.0, (Lead.II,))
    looked = [start for start in range(0, 200, 5) if look(cadence, window(float(start)))]
    assert looked == [0, 60, 120, 180]
    assert look(cadence, window(185.0, device="other"))
    assert not look(cadence, window(190.0, device="other"))
    assert look(cadence, window(185.0, bed="a/b/2"))


def test_a_device_whose_clock_is_set_back_is_not_forgotten(window: WindowMaker) -> None:
    cadence = Cadence(60.0, ())
    assert look(cadence, window(10_000.0))
    assert look(cadence, window(0.0))
    assert not look(cadence, window(5.0))


def test_once_per_admission_and_again_for_the_next_patient(window: WindowMaker) -> None:
    cadence = Cadence(None, (Lead.II,))
    first = window(0.0)
    assert look(cadence, first)
    assert not look(cadence, window(5.0)), "it is on its way"
    cadence.answered(first, lost=False)
    assert not look(cadence, window(10.0))
    second = window(15.0, generation=1)
    assert look(cadence, second)
    cadence.answered(first, lost=True)  # of the patient before: nobody's business any more
    cadence.answered(second, lost=False)
    assert not look(cadence, window(20.0, generation=1))


def test_once_waits_for_good_leads(window: WindowMaker) -> None:
    cadence = Cadence(None, LEADS)
    assert not look(cadence, window(0.0, provenance=(M, M, *(X,) * 10)))
    assert not look(cadence, window(5.0, provenance=(*LIMBS_FROM_TWO, *(X,) * 6)))
    assert look(cadence, window(10.0, provenance=(*LIMBS_FROM_TWO, *(M,) * 6)))


@pytest.mark.parametrize(
    ("provenance", "required", "once", "every"),
    [
        (ALL, LEADS, True, True),
        ((*LIMBS_FROM_TWO, *(M,) * 6), LEADS, True, True),
        ((D,) * 12, LEADS, False, True),  # EASI: twelve leads from five electrodes
        ((D,) * 12, (Lead.II,), False, True),
        ((*(M,) * 6, *(D,) * 6), LEADS, False, True),
        ((*(M,) * 6, *(D,) * 6), (Lead.I, Lead.II, Lead.AVF), True, True),
        ((D, M, D, D, D, D, *(M,) * 6), (Lead.III,), False, True),
        ((M, X, *(M,) * 10), (Lead.I,), True, True),
        ((M, X, *(M,) * 10), (Lead.II,), False, False),
        ((X,) * 12, (), True, True),
    ],
)
def test_good_leads(
    window: WindowMaker, provenance: tuple[Provenance, ...], required: tuple[Lead, ...], once: bool, every: bool
) -> None:
    assert Cadence(None, required).is_good(window(provenance=provenance)) == once
    assert Cadence(60.0, required).is_good(window(provenance=provenance)) == every


@pytest.mark.parametrize("every", [None, 60.0])
def test_a_window_that_was_lost_is_made_good_by_the_next(window: WindowMaker, every: float | None) -> None:
    cadence = Cadence(every, ())
    lost = window(0.0)
    assert look(cadence, lost)
    cadence.answered(lost, lost=True)
    assert look(cadence, window(5.0))
    assert not look(cadence, window(10.0))


@pytest.mark.parametrize("every", [None, 60.0])
def test_a_request_is_met_by_the_next_good_window_and_only_once(window: WindowMaker, every: float | None) -> None:
    cadence = Cadence(every, (Lead.V1,))
    cadence.request("a/b/1")  # nothing is known of the bed, whose first window is due anyway
    assert look(cadence, window(0.0))
    cadence.answered(window(0.0), lost=False)
    cadence.request("a/b/1")
    cadence.request("a/b/1")
    assert not look(cadence, window(5.0, provenance=(M, M, *(X,) * 10)))
    assert not look(cadence, window(5.0, bed="a/b/2", provenance=(X,) * 12))
    assert look(cadence, window(10.0))
    cadence.answered(window(10.0), lost=False)
    assert not look(cadence, window(15.0))


def test_a_bed_that_was_forgotten_begins_anew(window: WindowMaker) -> None:
    cadence = Cadence(None, ())
    assert look(cadence, window(0.0))
    cadence.forget("a/b/1")
    cadence.forget("never/seen/1")
    cadence.answered(window(0.0), lost=False)
    assert look(cadence, window(5.0))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.booleans()), max_size=40))
def test_at_most_one_answer_per_patient_whatever_is_lost(steps: list[tuple[str, int, bool]]) -> None:
    """Any order of windows, patients that come, and losses: a patient has one answer as soon as none is lost."""
    cadence, generation, answers = Cadence(None, ()), {"a": 0, "b": 0}, dict[tuple[str, int], int]()
    for i, (bed, arrives, lost) in enumerate(steps):
        generation[bed] += arrives
        one = Window(bed, "m", generation[bed], float(i), i + 10.0, 1.0, np.zeros((12, 10), np.float32), ALL, 0.0)
        if look(cadence, one):
            cadence.answered(one, lost=lost)
            if not lost:
                key = bed, generation[bed]
                answers[key] = answers.get(key, 0) + 1
    assert set(answers.values()) <= {1}
