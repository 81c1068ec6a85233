"""The monitor's own alarms, as makers send them."""

from __future__ import annotations

from datetime import UTC

import pytest

from agent.core.ecg import Phase, Priority, SourceAlarm
from agent.core.hl7.alarm import alarms_of
from agent.core.hl7.message import HL7Error, parse

HEAD = "MSH|^~\\&|A|F|||20260101||ORU^R40^ORU_R40|1|P|2.6\rOBR|1|||196616^MDC_EVT_ALARM^MDC|||20231114221320+0000\r"
PHYSIOLOGICAL = [
    "OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X",
    "OBX|4|ST|199684^MDC_EVT_ECG_ASYSTOLE^MDC|1.1.1.1.1|*** ASYSTOLE||||||R|||20231114221321+0000",
    "OBX|5|NM|147842^MDC_ECG_HEART_RATE^MDC|1.1.1.1.2|0|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R",
    "OBX|6|ST|68481^MDC_ATTR_EVENT_PHASE^MDC|1.1.1.1.3|start||||||R",
    "OBX|7|ST|68482^MDC_ATTR_ALARM_STATE^MDC|1.1.1.1.4|active||||||R",
    "OBX|9|ST|68484^MDC_ATTR_ALARM_PRIORITY^MDC|1.1.1.1.6|PH||||||R",
]


def alarms(rows: list[str]) -> tuple[tuple[SourceAlarm, ...], tuple[HL7Error, ...]]:
    message = parse((HEAD + "\r".join(rows)).encode())
    return alarms_of(message, message.segments[1], message.segments[2:], "a/b/c", "dev", None, 3.0, UTC)


def test_a_physiological_alarm() -> None:
    (alarm,), errors = alarms(PHYSIOLOGICAL)
    assert errors == ()
    assert alarm == SourceAlarm(
        bed="a/b/c",
        device="dev",
        code=199684,
        text="*** ASYSTOLE",
        phase=Phase.START,
        active=True,
        priority=Priority.HIGH,
        time=1_700_000_001.0,
        received=3.0,
        source_code=147842,
    )


def test_a_technical_alarm_has_its_code_in_the_value() -> None:
    rows = [
        "OBX|1|CWE|196616^MDC_EVT_ALARM^MDC|1.1.1.1.1|196882^MDC_EVT_LEADS_OFF^MDC^^^^^^ECG leads off||||||R",
        "OBX|2|CWE|68480^MDC_ATTR_ALERT_SOURCE^MDC|1.1.1.1.2|131330^MDC_ECG_ELEC_POTL_II^MDC||||||R",
        "OBX|3|ST|68481^MDC_ATTR_EVENT_PHASE^MDC|1.1.1.1.3|end||||||R",
        "OBX|4|ST|68482^MDC_ATTR_ALARM_STATE^MDC|1.1.1.1.4|inactive||||||R",
        "OBX|5|ST|68484^MDC_ATTR_ALARM_PRIORITY^MDC|1.1.1.1.6|20||||||R",
    ]
    (alarm,), _ = alarms(rows)
    assert (alarm.code, alarm.text, alarm.source_code) == (196882, "ECG leads off", 131330)
    assert (alarm.phase, alarm.active, alarm.priority) == (Phase.END, False, None)
    assert alarm.time == 1_700_000_000.0


def test_codes_of_two_makers_that_differ_from_the_standards() -> None:
    rows = [
        "OBX|2|ST|0^MDCX_EVT_ALERT_ADVISORY^MDC|1.0.0.0.1|HYPERTENSION|||||||||20210120082326.275+0000",
        "OBX|3|ST|68164^MDC_ATTR_ALERT_SOURCE^MDC|1.0.0.0.2|GE_Mural_DH_NM",
        "OBX|4|ST|68165^MDC_ATTR_EVENT_PHASE^MDC|1.0.0.0.3|update",
        "OBX|5|ST|68166^MDC_ATTR_ALERT_STATE^MDC|1.0.0.0.4|active",
        "OBX|7|ST|68484^MDC_ATTR_ALARM_PRIORITY^MDC|1.0.0.0.6|PM",
    ]
    (alarm,), _ = alarms(rows)
    assert (alarm.code, alarm.text, alarm.phase, alarm.priority) == (0, "HYPERTENSION", Phase.UPDATE, Priority.MEDIUM)


def test_two_alarms_in_one_order() -> None:
    second = [row.replace("|1.1.1.1.", "|1.2.1.9.").replace("199684", "199832") for row in PHYSIOLOGICAL]
    found, _ = alarms([*PHYSIOLOGICAL, *second])
    assert [alarm.code for alarm in found] == [199684, 199832]


def test_a_watchdog_is_no_alarm() -> None:
    for code in (258047, 196614):
        assert alarms([row.replace("199684", str(code)) for row in PHYSIOLOGICAL]) == ((), ())


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row for row in PHYSIOLOGICAL if "1.1.1.1.1|" not in row], "alarm_event"),
        ([row.replace("|start", "|sideways").replace("|active", "|asleep") for row in PHYSIOLOGICAL], "alarm_phase"),
        ([row.replace("20231114221321", "noon") for row in PHYSIOLOGICAL], "time"),
    ],
)
def test_an_alarm_that_makes_no_sense_is_an_error(rows: list[str], reason: str) -> None:
    found, (error,) = alarms(rows)
    assert found == ()
    assert error.reason == reason


def test_a_state_without_a_phase_is_enough() -> None:
    without = [row for row in PHYSIOLOGICAL if "EVENT_PHASE" not in row]
    (alarm,), _ = alarms(without)
    assert (alarm.phase, alarm.active) == (Phase.UPDATE, True)
