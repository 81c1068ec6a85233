"""ORU^R40 as PCD-04 has it, read back by another implementation (hl7apy), and what receivers answer."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.alerting.technical import ECG_MISSING, LEADS_OFF
from agent.core.ecg import Alert, Encounter, Phase, Priority
from agent.core.hl7.alert import (
    Acknowledgement,
    AcknowledgementError,
    Hl7AlertSettings,
    message_from_alert,
    parse_acknowledgement,
    watchdog_message,
)
from agent.core.hl7.message import parse
from agent.core.hl7.patient import encounter_of
from agent.core.labels import LABELS

SETTINGS = Hl7AlertSettings(
    sending_application="DEEPECG^AABBCCFFFEDDEEFF^EUI-64", sending_facility="WARD", receiving_application="AM"
)
START = Alert(
    alert_id="0b1c",
    message_id="77aa",
    bed="h/icu/7",
    device="m1",
    label="Afib",
    code=199736,
    ref_id="MDC_EVT_ECG_ATR_FIB",
    text="Atrial fibrillation (advisory)",
    priority=Priority.MEDIUM,
    phase=Phase.START,
    active=True,
    opened=1_700_000_000.25,
    time=1_700_000_000.25,
    created=1_700_000_001.5,
    probability=0.9312,
    threshold=0.8,
    model="sl/1",
    received=1.0,
    source_code=131328,
    encounter=Encounter(
        patient_ids=("4711^^^H&1.2.3&ISO^MR", "99^^^NAT^NI"),
        family_name="Müller|Łoś & ~Söhne^",
        given_name="Zoë\\",
        birth_date="19540312",
        sex="F",
        visit="V-1",
        location="ICU^2^7^H",
    ),
)
END = dataclasses.replace(
    START, message_id="77bb", phase=Phase.END, active=False, time=1_700_000_060.0, created=1_700_000_060.9
)


def parsed(message: bytes) -> Any:
    """By hl7apy, which knows the segments of 2.6 though not this structure."""
    return parse_message(message.decode(), find_groups=False)


def segments(message: bytes, name: str) -> list[list[str]]:
    found = [segment for segment in parse(message).segments if segment.name == name.encode()]
    return [[field.decode() for field in segment.fields] for segment in found]


def facets(message: bytes) -> dict[str, list[str]]:
    return {segment[4]: segment for segment in segments(message, "OBX")}


def test_the_whole_message() -> None:
    """Written out, so that a change of any byte is seen."""
    plain = dataclasses.replace(START, encounter=Encounter(("4711^^^H^MR",), "Doe", "Jo", location="ICU^2^7^H"))
    lines = [
        r"MSH|^~\&|DEEPECG^AABBCCFFFEDDEEFF^EUI-64|WARD|AM||20231114221321.500+0000||ORU^R40^ORU_R40|77aa|P|2.6|||AL|NE||"
        "UNICODE UTF-8|||IHE_PCD_ACM_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.4.1^ISO",
        "PID|1||4711^^^H^MR||Doe^Jo^^^^^L",
        "PV1|1|U|ICU^2^7^H",
        "OBR|1|DEEPECG^AABBCCFFFEDDEEFF^EUI-64|0b1c^DEEPECG^AABBCCFFFEDDEEFF^EUI-64|196616^MDC_EVT_ALARM^MDC|||"
        "20231114221321.500+0000",
        "OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X|||||||m1^h/icu/7",
        "OBX|2|ST|199736^MDC_EVT_ECG_ATR_FIB^MDC|1.1.1.1.1|Atrial fibrillation (advisory)|||A~PM~SP|||R|||"
        "20231114221320.250+0000||||m1^h/icu/7",
        "OBX|3|NM|131328^MDC_ECG_ELEC_POTL^MDC|1.1.1.1.2|||||||R",
        "OBX|4|ST|68481^MDC_ATTR_EVENT_PHASE^MDC|1.1.1.1.3|start||||||R",
        "OBX|5|ST|68482^MDC_ATTR_ALARM_STATE^MDC|1.1.1.1.4|active||||||R",
        "OBX|6|ST|68483^MDC_ATTR_ALARM_INACTIVATION_STATE^MDC|1.1.1.1.5|enabled||||||R",
        "OBX|7|ST|68484^MDC_ATTR_ALARM_PRIORITY^MDC|1.1.1.1.6|PM||||||R",
        "OBX|8|ST|68485^MDC_ATTR_ALERT_TYPE^MDC|1.1.1.1.7|SP||||||R",
        "OBX|9|NM|0^DEEPECG_PROBABILITY^99DEEPECG^sl/1^Afib^99DEEPECG|1.1.1.1.8|0.9312||<0.8000||||R",
    ]
    assert message_from_alert(plain, SETTINGS).decode().split("\r") == [*lines, ""]


def test_another_implementation_reads_it() -> None:
    message = parsed(message_from_alert(START, SETTINGS))
    assert message.msh.msh_9.to_er7() == "ORU^R40^ORU_R40"
    assert message.msh.msh_10.value == "77aa" and message.msh.msh_12.value == "2.6"
    assert message.msh.msh_15.value == "AL" and message.msh.msh_16.value == "NE"
    assert message.msh.msh_18.value == "UNICODE UTF-8"
    assert message.msh.msh_21.msh_21_3.value == "1.3.6.1.4.1.19376.1.6.1.4.1"
    assert [one.cx_1.value for one in message.pid.pid_3] == ["4711", "99"]
    assert message.pid.pid_3[0].cx_4.to_er7() == "H&1.2.3&ISO"
    assert message.pid.pid_5.xpn_1.value == r"Müller\F\Łoś \T\ \R\Söhne\S\ ".strip()
    assert message.pid.pid_5.xpn_2.value == "Zoë\\E\\"
    assert message.pid.pid_7.value == "19540312" and message.pid.pid_8.value == "F"
    assert message.pv1.pv1_3.to_er7() == "ICU^2^7^H" and message.pv1.pv1_19.to_er7() == "V-1"
    assert message.obr.obr_3.ei_1.value == "0b1c" and message.obr.obr_4.to_er7() == "196616^MDC_EVT_ALARM^MDC"
    assert [obx.obx_4.value for obx in message.obx][1:8] == [f"1.1.1.1.{n}" for n in range(1, 8)]
    assert message.obx[1].obx_14.value == "20231114221320.250+0000"
    assert message.obx[1].obx_18.ei_1.value == "m1"


def test_a_later_message_names_the_first() -> None:
    first, later = (segments(message_from_alert(alert, SETTINGS), "OBR")[0] for alert in (START, END))
    assert len(first) == 8, "OBR-29 is empty in the first message"
    assert later[3] == "77bb^DEEPECG^AABBCCFFFEDDEEFF^EUI-64"
    assert later[29] == "^0b1c&DEEPECG&AABBCCFFFEDDEEFF&EUI-64"
    found = facets(message_from_alert(END, SETTINGS))
    assert (found["1.1.1.1.3"][5], found["1.1.1.1.4"][5], found["1.1.1.1.1"][8]) == ("end", "inactive", "N~PM~SP")
    assert parsed(message_from_alert(END, SETTINGS)).obr.obr_29.eip_2.to_er7() == later[29][1:]


def test_a_technical_alert_has_its_own_form() -> None:
    for label, code, ref_id in (
        (LEADS_OFF, 196882, "MDC_EVT_LEADS_OFF"),
        (ECG_MISSING, 197378, "MDC_EVT_DATA_MISSING"),
    ):
        alert = dataclasses.replace(
            START, label=label, code=code, ref_id=ref_id, text="No ECG", priority=Priority.LOW, probability=None
        )
        found = facets(message_from_alert(alert, SETTINGS))
        assert found["1.1.1.1.1"][2:6] == [
            "CWE",
            "196616^MDC_EVT_ALARM^MDC",
            "1.1.1.1.1",
            f"{code}^{ref_id}^MDC^^^^^^No ECG",
        ]
        assert found["1.1.1.1.2"][2:6] == [
            "CWE",
            "68480^MDC_ATTR_ALERT_SOURCE^MDC",
            "1.1.1.1.2",
            "131328^MDC_ECG_ELEC_POTL^MDC",
        ]
        assert (found["1.1.1.1.6"][5], found["1.1.1.1.7"][5]) == ("PL", "ST")
        assert "1.1.1.1.8" not in found
        assert parsed(message_from_alert(alert, SETTINGS)).obx[1].obx_5.varies_9.to_er7() == "No ECG"


def test_advisory_settings_and_priority_none_make_it_sa_pn() -> None:
    quiet = dataclasses.replace(START, priority=Priority.NONE)
    for alert, how in ((START, SETTINGS.model_copy(update={"advisory": True})), (quiet, SETTINGS)):
        found = facets(message_from_alert(alert, how))
        assert (found["1.1.1.1.6"][5], found["1.1.1.1.7"][5], found["1.1.1.1.1"][8]) == ("PN", "SA", "A~PN~SA")


def test_a_finding_without_a_standard_code_goes_out_in_the_private_form() -> None:
    brugada = dataclasses.replace(START, label="Brugada", code=0, ref_id="")
    number = 258048 + [label.name for label in LABELS].index("Brugada")
    own = SETTINGS.model_copy(update={"private_oid": "1.2.3.4"})
    assert facets(message_from_alert(brugada, own))["1.1.1.1.1"][3] == (
        f"{number}^MDC_PRIVATE_{number}^MDC^{number}^Brugada^urn:oid:1.2.3.4"
    )
    other = dataclasses.replace(brugada, label="LVEF <= 40 %")
    assert facets(message_from_alert(other, SETTINGS))["1.1.1.1.1"][3] == (
        "262143^MDC_PRIVATE_262143^MDC^262143^LVEF <= 40 %^99DEEPECG"
    )
    assert number < 258048 + 77 < 262143


def test_an_st_alert_names_its_metric() -> None:
    alert = dataclasses.replace(START, code=196648, ref_id="MDC_EVT_HI", source_code=131845)
    assert facets(message_from_alert(alert, SETTINGS))["1.1.1.1.2"][3] == "131845^MDC_ECG_AMPL_ST_V3^MDC"
    for label in LABELS:
        found = facets(message_from_alert(dataclasses.replace(START, source_code=label.source_code), SETTINGS))
        assert "MDC_ECG_" in found["1.1.1.1.2"][3]


def test_an_unknown_patient_stays_unknown_and_has_the_beds_place() -> None:
    message = message_from_alert(dataclasses.replace(START, encounter=None), SETTINGS)
    assert segments(message, "PID") == [["PID", "1", "", "", "", "^^^^^^U"]]
    assert segments(message, "PV1") == [["PV1", "1", "U", "icu^^7^h"]]
    odd = message_from_alert(dataclasses.replace(START, encounter=None, bed="somewhere"), SETTINGS)
    assert segments(odd, "PV1")[0][3] == "^^somewhere"


@given(
    texts=st.lists(st.text(max_size=20), min_size=6, max_size=6),
    time=st.floats(allow_nan=True, allow_infinity=True),
    probability=st.none() | st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_no_content_breaks_the_structure(texts: list[str], time: float, probability: float | None) -> None:
    bed, device, label, text, name, identifier = texts
    who = Encounter((identifier.replace("^", ""),), name, name, name, name, name, name)
    alert = dataclasses.replace(
        START, bed=bed, device=device, label=label, text=text, encounter=who, time=time, probability=probability
    )
    message = message_from_alert(alert, SETTINGS)
    assert not {0x0B, 0x1C, 0x0A} & set(message)
    names = [segment.name for segment in parse(message).segments]
    assert names == [b"MSH", b"PID", b"PV1", b"OBR", *[b"OBX"] * (9 if probability is not None else 8)]


def test_what_came_in_with_escapes_goes_out_as_it_came() -> None:
    body = (
        "MSH|^~\\&|A|F|||1||ADT^A01|1|P|2.6\r"
        r"PID|1||7\S\7\T\1^^^H&1.2&ISO^MR~8||O\T\Neil^Jo" + "\r" + r"PV1|1|I|A\T\B^2^1&x^H" + "\r"
    )
    message = parse(body.encode())
    who = encounter_of(message, message.segments[1], message.segments[2])
    out = message_from_alert(dataclasses.replace(START, encounter=who), SETTINGS)
    assert segments(out, "PID")[0][3] == r"7\S\7\T\1^^^H&1.2&ISO^MR~8"
    assert segments(out, "PID")[0][5] == r"O\T\Neil^Jo^^^^^L"
    assert segments(out, "PV1")[0][3] == r"A\T\B^2^1&x^H"


def test_a_configured_name_cannot_break_the_header() -> None:
    odd = SETTINGS.model_copy(update={"sending_facility": "A|B\r", "profile": "one^x~two^y"})
    header = segments(message_from_alert(START, odd), "MSH")[0]
    assert (header[4], header[21]) == (r"A\F\B\X0D\ ".strip(), "one^x~two^y")


def test_a_time_that_is_no_date_is_left_empty() -> None:
    for time in (float("nan"), float("inf"), -1e15, 1e18):
        found = facets(message_from_alert(dataclasses.replace(START, time=time), SETTINGS))
        assert len(found["1.1.1.1.1"]) == 12, "nothing after OBX-11"


# Watchdog


def test_the_watchdog_and_its_last_word() -> None:
    first = watchdog_message("w1", "w1", Phase.START, 1_700_000_000.0, 5.0, SETTINGS)
    last = watchdog_message("w9", "w1", Phase.END, 1_700_000_600.0, 5.0, SETTINGS)
    found = facets(first)
    assert found["1.0.0.0.1"][3] == "258047^MDC_EVT_ACTIVE^MDC"
    assert found["1.0.0.0.8"][2:7] == [
        "NM",
        "67860^MDC_ATTR_CONFIRM_TIMEOUT^MDC",
        "1.0.0.0.8",
        "5",
        "264320^MDC_DIM_X_SEC^MDC^s^s^UCUM",
    ]
    assert [found[f"1.0.0.0.{n}"][5] for n in (3, 4, 5, 6, 7)] == ["start", "active", "enabled", "PN", "SA"]
    assert segments(first, "OBR")[0][3].startswith("w1^") and len(segments(first, "OBR")[0]) == 8
    assert [facets(last)[f"1.0.0.0.{n}"][5] for n in (3, 4)] == ["end", "inactive"]
    assert segments(last, "OBR")[0][29].startswith("^w1&")
    assert parsed(last).msh.msh_10.value == "w9"


# Acknowledgements


@pytest.mark.parametrize("code", ["AA", "CA", "AE", "AR", "CE", "CR"])
@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_every_code_and_line_end(code: str, end: str) -> None:
    message = end.join([r"MSH|^~\&|AM||DEEPECG||20240101||ACK^R40^ACK|1|P|2.6", f"MSA|{code}|77aa", ""])
    answer = parse_acknowledgement(message.encode())
    assert answer == Acknowledgement(code, "77aa")
    assert answer.accepted == (code in {"AA", "CA"})


def test_an_error_segment_says_why() -> None:
    message = "MSH|^~\\&|AM\rMSA|AE|77aa|old text\rERR||PID^1^3|204^Unknown key^HL70357|E|||diag|no such bed\r"
    assert parse_acknowledgement(message.encode()) == Acknowledgement("AE", "77aa", "204", "no such bed")
    plain = parse_acknowledgement(b"MSH|^~\\&|AM\rMSA|AR|77aa|old text\rERR|^^^207&x\r")
    assert (plain.error, plain.text) == ("", "old text")
    sneaky = parse_acknowledgement(b"MSH|^~\\&|AM\rMSA|AR|77aa\rERR|||Canary Finch^x\r")
    assert sneaky.error == "", "only a code may be logged"


def test_other_delimiters_and_other_messages_with_an_msa() -> None:
    assert parse_acknowledgement(b"MSH$%~\\&$AM\rMSA$CA$77aa\rERR$$$207%x\r") == Acknowledgement("CA", "77aa", "207")
    report = b"MSH|^~\\&#||MockAM|||2019||ORA^R41^ORA_R41|79||2.7\rMSA|AA|79\rPRT|||Delivered\r"
    assert parse_acknowledgement(report) == Acknowledgement("AA", "79")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "not HL7"),
        (b"HTTP/1.1 400 Bad Request", "not HL7"),
        (b"MSH", "not HL7"),
        (b"MSH|^~\\&|AM\r", "no MSA"),
        (b"MSH|^~\\&|AM\rMSA|AA\r", "no MSA"),
        (b"MSH|^~\\&|AM\rMSA|OK|77aa\r", "none of AA"),
    ],
)
def test_what_is_no_acknowledgement(message: bytes, says: str) -> None:
    with pytest.raises(AcknowledgementError, match=says):
        parse_acknowledgement(message)


@given(st.binary(max_size=60) | st.text("MSHA|^~\\&\rERC1\n", max_size=60).map(lambda t: b"MSH|^~\\&|" + t.encode()))
@settings(max_examples=300, deadline=None)
def test_nothing_but_an_acknowledgement_error_comes_of_garbage(data: bytes) -> None:
    with contextlib.suppress(AcknowledgementError):
        parse_acknowledgement(data)
