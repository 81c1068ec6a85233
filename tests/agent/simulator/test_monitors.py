"""The simulated monitors speak as the real ones do; that the agent understands them is tested with the decoder."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.ecg import LEADS, Encounter, EncounterEvent, Phase
from agent.core.hl7.message import parse
from agent.simulator import monitors

START = 1_700_000_000.0
PATIENT = Encounter(("4711^^^H^MR",), "Doe|", "Jo", "19510203", "F", "V77")


def rows(dialect: str, *, samples: int = 250) -> list[bytes]:
    values = np.linspace(-1, 1, 12 * samples, dtype=np.float32).reshape(12, samples)
    message = monitors.hl7_message(dialect, "demo/icu/b1", LEADS, values, 250.0, START, 7, PATIENT)
    return [b"|".join(segment.fields[:1] + segment.fields[2 if segment.name == b"MSH" else 1 :])
            for segment in parse(message).segments]  # fmt: skip


def test_ge_sends_an_order_for_each_lead_lf_and_no_patient() -> None:
    found = rows("ge")
    assert sum(row.startswith(b"OBR") for row in found) == 13
    assert sum(b"|197376^" in row for row in found) == 12 * 11
    assert sum(b"|197378^" in row for row in found) == 12 * 6
    assert sum(b"|250|s^s^UCUM|" in row for row in found) == 12
    assert not any(row.startswith(b"PID") for row in found)
    message = monitors.hl7_message("ge", "a/b/c", LEADS[:1], np.zeros((1, 5), np.float32), 250.0, START, 1)
    assert b"\r" not in message


def test_philips_has_no_rate_and_no_zone() -> None:
    found = rows("philips")
    (order,) = [row for row in found if b"MDC_OBS_WAVE_CTS" in row]
    assert order.endswith(b"|20231114221320.000|20231114221321.000")
    assert not any(b"SAMP" in row for row in found)


def test_xh80x_has_no_times_and_blank_patient() -> None:
    found = rows("mindray_w01")
    assert b"20231114" not in b"".join(found)
    assert b"PID|||^^^^PI||^^^^^^L|||||" in found
    assert b"ORU^W01^ORU_W01" in found[0]


def test_capsule_names_the_bed_in_obr_10_and_ends_lines_with_crlf() -> None:
    (order,) = [row for row in rows("capsule") if row.startswith(b"OBR")]
    assert order.split(b"|")[10] == b"demo-icu-b1"
    message = monitors.hl7_message("capsule", "a/b/c", LEADS[:1], np.zeros((1, 5), np.float32), 250.0, START, 1)
    assert b"\r\n" in message


def test_wcm_sends_decimals() -> None:
    first = next(row for row in rows("wcm") if b"|NA|" in row)
    assert first.split(b"|")[5].startswith(b"-1.000^-0.999^")


@pytest.mark.parametrize("dialect", monitors.CADENCE)
def test_values_beyond_the_converter_are_clipped_and_never_become_sentinels(dialect: str) -> None:
    values = np.full((1, 10), 500.0, np.float32)
    message = monitors.hl7_message(dialect, "a/b/c", LEADS[:1], values, 250.0, START, 1)
    assert b"^32000^" in message or b"^32.767^" in message


def test_adt_and_alarm_carry_the_patient() -> None:
    message = monitors.adt(EncounterEvent.TRANSFER, "demo/icu/b2", PATIENT, 1, START, "demo/icu/b1")
    assert b"ADT^A02^ADT_A02" in message
    assert b"|icu^^b2^demo|||icu^^b1^demo|" in message
    assert b"Doe\\F\\^Jo" in message
    alarm = monitors.r40("demo/icu/b1", 199684, "MDC_EVT_ECG_ASYSTOLE", "ASYSTOLE", Phase.END, START, 1, active=False)
    assert b"|199684^MDC_EVT_ECG_ASYSTOLE^MDC|1.1.1.1.1|ASYSTOLE|" in alarm
    assert b"|end|" in alarm
    assert b"|inactive|" in alarm


def test_a_bed_keeps_its_device() -> None:
    assert monitors.eui64("a/b/c") == monitors.eui64("a/b/c") != monitors.eui64("a/b/d")
    assert len(monitors.eui64("a/b/c")) == 16
