"""Whole messages: events, verdicts, acknowledgements; and that no bytes at all raise anything but the named error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.ecg import (
    LEADS,
    Encounter,
    EncounterChange,
    EncounterEvent,
    FloatArray,
    Lead,
    Phase,
    Samples,
    SourceAlarm,
)
from agent.core.hl7.acknowledgement import acknowledge, answers
from agent.core.hl7.decode import Decoded, decode, refuse
from agent.core.hl7.message import FAULT_REASONS, HL7Error
from agent.core.hl7.patient import BedMap
from agent.simulator import monitors
from agent.sources.hl7.settings import load_dialects

DIALECTS = load_dialects()
BED = "demo/icu/b1"
LOOKUP = BedMap(
    lookup={key: bed for dialect in monitors.CADENCE for key, bed in monitors.bed_lookup(dialect, BED).items()}
)
START = 1_700_000_000.0
PATIENT = Encounter(("4711^^^H^MR", "V9^^^H^VN"), "O|Neil", "Zoë & Jo", "19510203", "F", "V77", "icu^^b1^demo")
RNG = np.random.default_rng(11)
ECG: FloatArray = RNG.normal(0, 0.5, (12, 500)).astype(np.float32)


def ask(message: bytes, dialect: str | None = None) -> Decoded:
    return decode(message, DIALECTS, 5.0, beds=LOOKUP, dialect=dialect)


def wave(dialect: str, values: FloatArray = ECG, rate: float = 500.0, paced: bool | None = None) -> bytes:
    return monitors.hl7_message(dialect, BED, LEADS, values, rate, START, 7, PATIENT, paced)


def only(decoded: Decoded) -> Samples:
    (event,) = decoded.events
    assert isinstance(event, Samples)
    return event


@pytest.mark.parametrize("dialect", monitors.CADENCE)
@pytest.mark.parametrize("rate", [125.0, 240.0, 500.0])
def test_every_dialect_is_known_by_its_own_traits_and_read_in_millivolts(dialect: str, rate: float) -> None:
    values = RNG.normal(0, 0.5, (12, int(rate))).astype(np.float32)
    decoded = ask(wave(dialect, values, rate))
    assert (decoded.dialect, decoded.verdict, decoded.faults) == (dialect, "AA", ())
    samples = only(decoded)
    assert (samples.bed, samples.received, samples.sequence) == (BED, 5.0, None)
    assert samples.start == (None if dialect == "mindray_w01" else START)
    assert tuple(channel.lead for channel in samples.channels) == LEADS
    assert {(c.rate, c.unit, c.derived) for c in samples.channels} == {(rate, "mV", False)}
    np.testing.assert_allclose(np.array(samples.values), values, atol=0.00125)
    knows_patient = dialect not in {"ge", "mindray_w01"}
    assert samples.encounter is None or samples.encounter.patient_ids == (PATIENT.patient_ids if knows_patient else ())


@pytest.mark.parametrize("dialect", monitors.CADENCE)
def test_invalid_samples_and_leads_that_are_off(dialect: str) -> None:
    values = ECG.copy()
    values[1, 100:150] = np.nan
    values[4] = np.nan
    samples = only(ask(wave(dialect, values)))
    by_lead = {channel.lead: array for channel, array in zip(samples.channels, samples.values, strict=True)}
    assert np.isnan(by_lead[Lead.II]).sum() == 50
    off = by_lead.get(Lead.AVL)
    assert off is None or np.isnan(off).all()


def test_overlapping_batches_carry_their_own_start() -> None:
    six = RNG.normal(0, 0.5, (12, 1440)).astype(np.float32)
    blocks = [only(ask(monitors.hl7_message("ge", BED, LEADS, six, 240.0, START + 5.5 * n, n))).start for n in range(3)]
    assert blocks == [START, START + 5.5, START + 11.0]


@pytest.mark.parametrize(("paced", "expected"), [(True, True), (False, False), (None, None)])
def test_rhythm_status(paced: bool | None, expected: bool | None) -> None:
    for dialect in ("ge", "philips"):
        assert only(ask(wave(dialect, paced=paced))).paced is expected


def test_patient_and_visit_come_with_the_samples() -> None:
    found = only(ask(wave("mindray"))).encounter
    assert found is not None
    assert (found.family_name, found.given_name, found.birth_date, found.sex) == ("O|Neil", "Zoë & Jo", "19510203", "F")
    assert found.patient_ids == PATIENT.patient_ids
    assert found.location == "icu^^b1^demo"
    assert "Neil" not in repr(found)


def test_two_patients_in_one_message_stay_apart() -> None:
    one, two = (
        monitors.hl7_message("mindray", bed, LEADS, ECG, 500.0, START, 1, patient).split(b"\r")
        for bed, patient in (
            (BED, PATIENT),
            ("demo/icu/b2", Encounter(("2^^^H^MR",), "Second")),
        )
    )
    first, second = ask(b"\r".join([*one[:-1], *two[1:]])).events
    assert isinstance(first, Samples)
    assert isinstance(second, Samples)
    assert (first.bed, second.bed) == (BED, "demo/icu/b2")
    assert first.encounter is not None
    assert second.encounter is not None
    assert second.encounter.patient_ids == ("2^^^H^MR",)
    # A second visit without a PID is nobody's that came before.
    headless = [row for row in two if not row.startswith(b"PID")]
    _, anonymous = ask(b"\r".join([*one[:-1], *headless[1:]])).events
    assert isinstance(anonymous, Samples)
    assert anonymous.bed == "demo/icu/b2"
    assert anonymous.encounter is not None
    assert anonymous.encounter.patient_ids == ()


def test_a_quarantined_channel_leaves_the_others_and_is_told() -> None:
    decoded = ask(wave("philips").replace(b"131330^MDC_ECG_ELEC_POTL_II", b"131331^MDC_ECG_ELEC_POTL_II"))
    assert (decoded.verdict, len(only(decoded).channels)) == ("AA", 11)
    assert [fault.reason for fault in decoded.faults] == ["code_mismatch"]
    ack = acknowledge(decoded.header, "AA", control_id="1", created=START, errors=decoded.errors)
    assert b"|102^Data type error^HL70357|W||||OBX 4" in ack


def test_a_lead_that_comes_twice_is_taken_once() -> None:
    message = wave("philips").replace(b"131331^MDC_ECG_ELEC_POTL_V1", b"131332^MDC_ECG_ELEC_POTL_V2")
    decoded = ask(message)
    assert len(only(decoded).channels) == 11
    assert decoded.faults[0].reason == "lead_twice"


def test_nothing_that_could_be_held_is_ae() -> None:
    decoded = ask(wave("philips").replace(b"10.mV/4096^10.mV/4096", b"parsec^parsec"), dialect="philips")
    assert (decoded.verdict, decoded.events) == ("AE", ())
    assert {fault.reason for fault in decoded.faults} == {"unit"}


def test_no_bed_is_ae_and_says_so() -> None:
    decoded = ask(wave("mindray").replace(b"|icu^^b1^demo", b"|^^^"))
    assert (decoded.verdict, decoded.errors[0].code, decoded.errors[0].location) == ("AE", 204, "PV1^1^3")
    gateway = wave("mindray_w01").replace(b"^EUI-64||||||", b"^OTHER||||||")
    assert ask(gateway).faults[0].reason == "bed_unknown"


def test_waveforms_in_no_known_dialect_are_ae() -> None:
    decoded = ask(wave("mindray").replace(b"CONTINUOUS WAVEFORM", b"SQUIGGLES"))
    assert (decoded.verdict, decoded.faults[0].reason) == ("AE", "dialect_unknown")


def test_numbers_alone_are_taken_and_give_nothing() -> None:
    message = b"\r".join(
        [
            b"MSH|^~\\&|XH80X^00A0^EUI-64||||20210611102047||ORU^R01^ORU_R01|41|P|2.4|||AL|NE||UNICODE UTF-8",
            b"PID|||^^^^PI||^^^^^^L|||||",
            b"PV1||I|^^^",
            b"OBR|1|||182777000^monitoring of patient^SCT|||20210611102047",
            b"OBX|5|NM|150456^MDC_PULS_OXIM_SAT_O2^MDC|1.3.1.150456|-999|262688^MDC_DIM_PERCENT^MDC",
        ]
    )
    assert ask(message).verdict == "AA"
    assert ask(message).events == ()


@pytest.mark.parametrize(
    ("event", "trigger"),
    [(EncounterEvent.ADMIT, "A01"), (EncounterEvent.TRANSFER, "A02"), (EncounterEvent.DISCHARGE, "A03"),
     (EncounterEvent.UPDATE, "A08"), (EncounterEvent.DISCHARGE, "A11"), (EncounterEvent.ADMIT, "A13")],
)  # fmt: skip
def test_adt(event: EncounterEvent, trigger: str) -> None:
    decoded = ask(monitors.adt(trigger, BED, PATIENT, 3, START, "demo/icu/b9"))
    (change,) = decoded.events
    assert isinstance(change, EncounterChange)
    assert (change.event, change.bed) == (event, BED)
    assert change.prior_bed == ("demo/icu/b9" if event is EncounterEvent.TRANSFER else None)
    assert change.encounter.visit == "V77"


def test_r40_and_the_same_rows_inside_r01() -> None:
    message = monitors.r40(BED, 199684, "MDC_EVT_ECG_ASYSTOLE", "ASYSTOLE", Phase.START, START, 3, encounter=PATIENT)
    for candidate in (message, message.replace(b"ORU^R40^ORU_R40", b"ORU^R01^ORU_R01")):
        (alarm,) = ask(candidate).events
        assert isinstance(alarm, SourceAlarm)
        assert (alarm.bed, alarm.device, alarm.code) == (BED, monitors.eui64(BED), 199684)
        assert (alarm.active, alarm.time, alarm.source_code) == (True, START, 131328)
        assert alarm.encounter is not None
    rows = b"\r".join(row for row in message.split(b"\r") if row.startswith((b"OBR", b"OBX")))
    together = ask(wave("philips") + rows)
    assert [type(event) for event in together.events] == [Samples, SourceAlarm]


def test_an_alarm_message_without_an_alarm_is_ae_but_a_watchdog_is_not() -> None:
    message = monitors.r40(BED, 199684, "MDC_EVT_ECG_ASYSTOLE", "ASYSTOLE", Phase.START, START, 3)
    empty = b"\r".join(row for row in message.split(b"\r") if b"|6848" not in row)
    assert ask(empty).verdict == "AE"
    watchdog = message.replace(b"199684^MDC_EVT_ECG_ASYSTOLE", b"258047^MDC_EVT_ACTIVE")
    assert (ask(watchdog).verdict, ask(watchdog).events) == ("AA", ())


@pytest.mark.parametrize(
    ("header", "verdict", "code"),
    [
        ("MSH|^~\\&|A|B|||20260101||MDM^T02|1|P|2.5", "AR", 200),
        ("MSH|^~\\&|A|B|||20260101|||1|P|2.5", "AR", 200),
        ("MSH|^~\\&|A|B|||20260101||ORU^R99|1|P|2.5", "AR", 201),
        ("MSH|^~\\&|A|B|||20260101||ADT^A40|1|P|2.5", "AR", 201),
        ("MSH|^~\\&|A|B|||20260101||ORU^R01|1|P|3.0", "AR", 203),
        ("MSH|^~\\&|A|B|||20260101||ORU^R01||P|2.5", "AE", 101),
        ("MSH|^~\\&|A|B|||20260101||ORU^R01|1|P|2.5", "AE", 100),
    ],
)
def test_what_is_not_for_us_is_refused_with_a_code(header: str, verdict: str, code: int) -> None:
    decoded = ask(header.encode() + b"\r")
    assert (decoded.verdict, decoded.errors[0].code) == (verdict, code)


def test_answers_are_never_answered() -> None:
    assert ask(b"MSH|^~\\&|A|B|||20260101||ACK^R01|1|P|2.5\rMSA|AA|7\r").is_acknowledgement
    assert not ask(wave("ge")).is_acknowledgement


def test_refusal_withdraws_every_event() -> None:
    decoded = refuse(ask(wave("ge")), HL7Error("not_granted", "no", code=207, reject=True))
    assert (decoded.events, decoded.verdict, decoded.faults[0].reason) == ((), "AR", "not_granted")


# No bytes raise anything but HL7Error -------------------------------------------------------------------------------

SEEDS = [
    *(monitors.hl7_message(d, BED, LEADS[:3], ECG[:3, :20], 500.0, START, 1, PATIENT, True) for d in monitors.CADENCE),
    monitors.adt(EncounterEvent.TRANSFER, BED, PATIENT, 1, START, "demo/icu/b9"),
    monitors.r40(BED, 199684, "MDC_EVT_ECG_ASYSTOLE", "ASYSTOLE", Phase.START, START, 3, encounter=PATIENT),
]
TOKENS = [b"|", b"^", b"~", b"\\", b"&", b"\r", b"\n", b"\x00", b'""', b"-", b".", b"1e999", b"nan", b"inf", b"-1",
          b"0", b"\xff", b"\xc3", b"9" * 30, b"OBX|", b"OBR|", b"PID|", b"MSH|", b"UNICODE", b"GB 18030-2000", b"\\X",
          b"1.5.0.1"]  # fmt: skip


def survives(data: bytes) -> None:
    try:
        decoded = ask(data)
    except HL7Error:
        return
    for event in decoded.events:
        assert event.bed.count("/") >= 2
        if isinstance(event, Samples):
            assert all(array.dtype == np.float32 and array.ndim == 1 for array in event.values)
            assert not any(np.isinf(array).any() for array in event.values)
            assert all(0 < channel.rate <= 20_000 for channel in event.channels)
    assert decoded.events or decoded.verdict != "AA" or not decoded.errors
    assert {fault.reason for fault in decoded.faults} <= FAULT_REASONS
    for code in answers(decoded.header, decoded.verdict):
        ack = acknowledge(decoded.header, code, control_id="1", created=START, errors=decoded.errors)
        assert not {0x0B, 0x1C} & set(ack) - set(data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 12), st.sampled_from(TOKENS)), max_size=8),
)
def test_mutated_messages(seed: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    data = seed
    for at, length, token in edits:
        position = at % (len(data) + 1)
        data = data[:position] + token + data[position + length :]
    survives(data)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
def test_shuffled_and_dropped_segments(seed: bytes, random: object) -> None:
    rows = seed.replace(b"\n", b"\r").split(b"\r")
    head, rest = rows[0], rows[1:]
    random.shuffle(rest)  # type: ignore[attr-defined]
    survives(b"\r".join([head, *rest[: random.randint(0, len(rest))]]))  # type: ignore[attr-defined]


@given(st.binary(max_size=300))
def test_arbitrary_bytes(data: bytes) -> None:
    survives(data)
    survives(b"MSH|^~\\&|A|B|||1||ORU^R01|1|P|2.6\r" + data)


def test_truncation_anywhere() -> None:
    for seed in SEEDS:
        for end in range(0, len(seed), 23):
            survives(seed[:end])


HEAD = b"MSH|^~\\&|WFM|B|||1||ORU^R01|1|P|2.6\rPV1||I|icu-b1\rOBR|1|||69121^MDC_OBS_WAVE_CTS^MDC\r"
MEGA = 8 * 1024 * 1024


@pytest.mark.parametrize(
    "message",
    [
        HEAD + b"OBX|\r" * (MEGA // 5),
        HEAD + b"OBX|1|NA|1^a^MDC|1|1|mV\r" * 19_000,
        HEAD + b"OBX|1|NM|68320^a^MDC|1.1.1.1.1.1.1|1|mV\r" * 19_000,
        HEAD + b"OBX|1|ST|68481^a^MDC|1.3|start\r" * 19_000,
        HEAD + b"OBR|1|||69121\rOBX|1|NA|131330^^MDC|1|1|mV\r" * 9_000,
        HEAD + b"PID|" + b"|" * MEGA,
        HEAD + b"PID|1||" + b"~^" * (MEGA // 2) + b"||" + b"\\F\\" * (MEGA // 3),
        HEAD.replace(b"icu-b1", b"^&" * (MEGA // 2)),
        HEAD.replace(b"icu-b1", b"\\X41\\" * (MEGA // 5)),
        HEAD + b"OBX|1|NA|131330^^MDC|1|" + b"1^" * (MEGA // 2) + b"|mV",
        HEAD + b"OBX|1|NA|131330^^MDC|1|" + b"+1^" * (MEGA // 3) + b"|mV",
        HEAD + b"OBX|1|NA|131330^^MDC|1|" + b"9" * MEGA + b"|mV",
        HEAD + b"OBX|1|NA|131330^^MDC|" + b"1." * (MEGA // 2) + b"|1^2|mV",
        HEAD + b"OBX|1|NA|" + b"1^" * (MEGA // 2) + b"|1|1^2|" + b"m^" * 1000,
        HEAD.replace(b"|1|P", b"|" + b"7" * MEGA + b"|P"),
        HEAD.replace(b"2.6", b"2.6||||||" + b"~" * MEGA),
        b"MSH|^~\\&" + b"|" * MEGA,
    ],
    ids=range(17),
)
@pytest.mark.timeout(30)  # each takes under a second; work that grows with the square would take minutes
def test_no_message_within_the_limit_keeps_the_others_waiting(message: bytes) -> None:
    survives(message)


def test_the_data_files_name_distinct_dialects() -> None:
    names = [dialect.name for dialect in DIALECTS]
    assert len(set(names)) == len(names)
    assert {*monitors.CADENCE, "ihe"} == set(names)
    folder = Path(__file__).parents[4] / "agent" / "sources" / "dialects"
    assert {path.stem for path in folder.glob("*.toml")} == set(names)
