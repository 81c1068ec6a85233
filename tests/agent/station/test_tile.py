"""One bed of the page: whose it is, and its alerts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.census import Stay
from agent.core.ecg import Encounter, Lead
from agent.station.tile import Tile

PEOPLE = [None, Encounter(patient_ids=("1",)), Encounter(patient_ids=("2",))]


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(PEOPLE), st.booleans()), max_size=20))
def test_nothing_outlives_the_generation_that_it_was_of(
    make: SimpleNamespace, steps: list[tuple[int, Encounter | None, bool]]
) -> None:
    tile, generation = Tile(0, 0), 5
    tile.follow(Stay(generation), 12.0)
    for more, who, by_samples in steps:
        shown = tile.prediction = make.prediction("a/b/1", [0.5], generation=generation)
        name, epoch = tile.encounter, tile.epoch
        generation += more
        changed = tile.follow(Stay(generation, who), 12.0) if by_samples else tile.leave(generation, 12.0)
        assert tile.prediction is (None if more else shown)
        assert tile.epoch == epoch + more, "a new strip with each patient"
        assert tile.encounter == (who if by_samples else None if more else name)
        assert changed or (not more and tile.encounter == name)


def test_an_alert_opens_is_renewed_and_closes(make: SimpleNamespace) -> None:
    tile = Tile(0, 0)
    tile.take_alert(make.alert())
    tile.alerts["a1"].acknowledged.add("hl7")
    tile.take_alert(make.alert(number=2))
    assert (tile.alerts["a1"].messages, tile.alerts["a1"].acknowledged) == ({"m1", "m2"}, {"hl7"})
    tile.take_alert(make.alert(active=False, number=3))
    tile.take_alert(make.alert(active=False, number=3))
    assert tile.alerts == {}


@pytest.mark.parametrize(("leads", "shown"), [((Lead.V5, Lead.I), "I"), ((Lead.V6, Lead.II), "II"), ((Lead.V6,), "V6")])
def test_the_strip_shows_the_preferred_lead_or_any_other(
    make: SimpleNamespace, leads: tuple[Lead, ...], shown: str
) -> None:
    tile = Tile(0, 0)
    tile.choose(make.samples(leads=leads), (Lead.II, Lead.I), 12.0)
    assert tile.trace is not None and tile.trace.lead == shown
    tile.choose(make.samples(leads=leads, rate=1e6, seconds=1e-4), (Lead.II, Lead.I), 12.0)
    assert tile.trace is None, "no rate that a strip is drawn of"
