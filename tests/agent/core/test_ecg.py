"""The vocabulary: what is never printed, and how far a sender's word reaches."""

from __future__ import annotations

from agent.core.ecg import Encounter, EncounterChange, EncounterEvent


def test_a_patient_is_never_printed() -> None:
    assert repr(Encounter(patient_ids=("1",), family_name="Canary")) == "Encounter(<withheld>)"


def test_a_message_that_names_no_bed_left_may_empty_those_of_its_sender_and_never_the_new_one() -> None:
    change = EncounterChange(EncounterEvent.TRANSFER, "h/er/1", Encounter(), 0.0, sender_beds=("h/er/*", "h/icu/7"))
    assert [change.may_empty(bed) for bed in ("h/er/2", "h/icu/7", "h/icu/1", "h/er/1")] == [True, True, False, False]
