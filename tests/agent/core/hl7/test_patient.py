"""Patients, visits, beds and ADT events."""

from __future__ import annotations

import pytest

from agent.core.ecg import Encounter, EncounterEvent
from agent.core.hl7.message import HL7Error, Message, parse
from agent.core.hl7.patient import BedMap, change_of, encounter_of, location_of

BEDS = BedMap(site="main")


def adt(trigger: str, pv1: str, pid: str = "PID|1||77^^^H^MR") -> Message:
    return parse(f"MSH|^~\\&|HIS|main|||20260101||ADT^{trigger}|1|P|2.5\rEVN|{trigger}\r{pid}\r{pv1}\r".encode())


def encounter(pid: str, pv1: str) -> Encounter | None:
    message = parse(f"MSH|^~\\&|A|F|||20260101||ORU^R01|1|P|2.6\r{pid}\r{pv1}\r".encode())
    return encounter_of(message, message.segments[1], message.segments[2])


def test_a_patient_with_everything() -> None:
    found = encounter(
        r"PID|1||12345^^^Philips&1.2&ISO^MR~6789^^^Philips^VN~^^^^PI||O\F\Neil^Zoë^X^^^^L||19710108120000|f",
        "PV1|2|I|My Unit^^Bed1^Institution||||||||||||||||23456",
    )
    assert found == Encounter(
        patient_ids=("12345^^^Philips&1.2&ISO^MR", "6789^^^Philips^VN"),
        family_name="O|Neil",
        given_name="Zoë",
        birth_date="19710108",
        sex="F",
        visit="23456",
        location="My Unit^^Bed1^Institution",
    )


def test_blank_segments_are_an_unknown_patient() -> None:
    assert encounter("PID|||^^^^PI||^^^^^^L|||||", "PV1||I|^^^") is None


@pytest.mark.parametrize(("sent", "kept"), [("M", "M"), ("A", "O"), ("N", "U"), ("X", ""), ('""', ""), ("", "")])
def test_sex_by_table_0001(sent: str, kept: str) -> None:
    found = encounter(f"PID|1||7||A^B||1971|{sent}", "PV1||I")
    assert found is not None
    assert found.sex == kept
    assert found.birth_date == ""


@pytest.mark.parametrize(
    ("location", "bed"),
    [
        ("ICU^2^23", "main/ICU/23"),
        ("ICU^^7^North", "North/ICU/7"),
        ("ICU^12^^North&1.2.3&ISO", "North/ICU/12"),
        ("^^7", "main/ward/7"),
        ("ICU-01", "main/ward/ICU-01"),
        ("^^^", None),
        ("", None),
        ("ICU", "main/ward/ICU"),
        ("ICU^^a/b", None),
        ("IC+U^^1", None),
        ("IC#U^^1", None),
        (r"A\T\B^2^1", "main/A&B/1"),
        (r"A\S\B^2^1", "main/A^B/1"),
        (r"A\F\B&id^^1", "main/A|B/1"),
        (r"A\X2F\B^^1", None),
    ],
)
def test_beds_by_template(location: str, bed: str | None) -> None:
    assert BEDS.bed(location) == bed


def test_beds_by_lookup_and_by_pattern() -> None:
    beds = BedMap(
        lookup={"ICU^2^23": "main/icu/23", "a/b": "main/icu/24"},
        text_pattern=r"(?P<site>[^-]+)-(?P<unit>[^-]+)-(?P<bed>.+)",
    )
    assert beds.bed("ICU^2^23^^^") == "main/icu/23"
    assert beds.bed("a/b") == "main/icu/24"
    assert beds.bed("EUH-4TN-T435") == "EUH/4TN/T435"
    assert BedMap(lookup={"x": "a/b/c"}, only_lookup=True).bed("ICU^2^23") is None


@pytest.mark.parametrize(
    ("trigger", "event"),
    [("A01", "admit"), ("A13", "admit"), ("A03", "discharge"), ("A11", "discharge"), ("A08", "update")],
)
def test_events(trigger: str, event: str) -> None:
    change = change_of(adt(trigger, "PV1|1|I|ICU^^1"), BEDS, 5.0)
    assert change is not None
    assert (change.event, change.bed, change.prior_bed, change.received) == (event, "main/ICU/1", None, 5.0)
    assert change.encounter.patient_ids == ("77^^^H^MR",)


def test_a_transfer_names_both_beds() -> None:
    change = change_of(adt("A02", "PV1|1|I|ICU^^2|||ICU^^1"), BEDS, 0.0)
    assert change is not None
    assert (change.event, change.bed, change.prior_bed) == (EncounterEvent.TRANSFER, "main/ICU/2", "main/ICU/1")
    same = change_of(adt("A02", "PV1|1|I|ICU^^2|||ICU^^2"), BEDS, 0.0)
    assert same is not None
    assert same.prior_bed is None


def test_a_transfer_out_of_our_beds_ends_the_stay() -> None:
    ours = BedMap(lookup={"ICU^^1": "main/icu/1"}, only_lookup=True)
    change = change_of(adt("A02", "PV1|1|I|OR^^2|||ICU^^1"), ours, 0.0)
    assert change is not None
    assert (change.event, change.bed) == (EncounterEvent.DISCHARGE, "main/icu/1")
    assert change_of(adt("A01", "PV1|1|I|OR^^2"), ours, 0.0) is None


def test_a_discharge_may_name_the_bed_as_the_prior_one() -> None:
    change = change_of(adt("A03", "PV1|1|I||||ICU^^1"), BEDS, 0.0)
    assert change is not None
    assert change.bed == "main/ICU/1"


@pytest.mark.parametrize(("trigger", "pv1", "code"), [("A40", "PV1|1|I|ICU^^1", 201), ("A01", "PV1|1|I", 204)])
def test_what_cannot_be_applied_is_an_error(trigger: str, pv1: str, code: int) -> None:
    with pytest.raises(HL7Error) as caught:
        change_of(adt(trigger, pv1), BEDS, 0.0)
    assert caught.value.code == code


def test_an_unknown_patient_stays_unknown() -> None:
    change = change_of(adt("A01", "PV1|1|I|ICU^^1", "PID|1"), BEDS, 0.0)
    assert change is not None
    assert change.encounter.patient_ids == ()


def test_a_location_is_given_in_standard_form() -> None:
    message = parse(b"MSH|*~\\&|A|F|||\rPV1|1|I|ICU*\\S\\*7~second\r")
    assert location_of(message, message.segments[1], 3) == "ICU^*^7"
    caret = parse(b"MSH|*~\\&|A|F|||\rPV1|1|I|A^B*C\\T\\D&E*7\r")
    assert location_of(caret, caret.segments[1], 3) == r"A\S\B^C\T\D&E^7"
    assert location_of(message, None, 3) == ""
