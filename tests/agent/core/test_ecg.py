"""The vocabulary: who is the same patient."""

from __future__ import annotations

import pytest

from agent.core.ecg import Encounter


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("1^^^A^MR",), ("1^^^A^PI",), True),
        (("1^^^A",), ("1",), True),  # many a monitor names no authority
        (("1^^^A",), ("1^^^B",), False),  # two hospitals count from 1
        (("1^^^A&1.2.3&ISO",), ("1^^^&1.2.3&ISO",), True),
        (("1^^^A&1.2.3&ISO",), ("1^^^A",), True),
        (("1^^^A&1.2.3&ISO",), ("1^^^B&1.2.4&ISO",), False),
        (("1^^^A", "9^^^N"), ("2^^^A", "9^^^N"), True),
        (("1^^^A",), ("2^^^A",), False),
        ((), ("2^^^A",), True),
    ],
)
def test_a_number_is_a_patient_only_with_its_authority(
    one: tuple[str, ...], other: tuple[str, ...], same: bool
) -> None:
    assert Encounter(patient_ids=one).same_patient(Encounter(patient_ids=other)) is same
    assert Encounter(patient_ids=other).same_patient(Encounter(patient_ids=one)) is same


def test_many_identifiers_are_compared_in_no_time() -> None:
    one = Encounter(patient_ids=tuple(f"1^^^A{i}" for i in range(50_000)))
    other = Encounter(patient_ids=tuple(f"1^^^B{i}" for i in range(50_000)))
    assert not one.same_patient(other)


def test_a_patient_is_never_printed() -> None:
    assert repr(Encounter(patient_ids=("1",), family_name="Canary")) == "Encounter(<withheld>)"
