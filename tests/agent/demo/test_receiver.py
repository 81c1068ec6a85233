"""The demo's HL7 receiver: what it reads of an alert, what it answers, and that garbage does it no harm."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.alerting.technical import ECG_MISSING
from agent.core.ecg import Alert, Encounter, Phase, Priority
from agent.core.hl7.alert import (
    Acknowledgement,
    Hl7AlertSettings,
    message_from_alert,
    parse_acknowledgement,
    watchdog_message,
)
from agent.core.hl7.message import HL7Error, parse
from agent.core.hl7.mllp import Decoder, encode
from agent.demo.receiver import Misbehaviour, NoAlertError, Receiver, received_from_message

SETTINGS = Hl7AlertSettings()
ALERT = Alert(
    alert_id="a",
    message_id="a-1",
    bed="h/icu/1",
    device="m1",
    label="ST elevation (anterior - V3-V4)",
    code=196648,
    ref_id="MDC_EVT_HI",
    text="Anterior ST elevation (advisory)",
    priority=Priority.HIGH,
    phase=Phase.START,
    active=True,
    opened=1_700_000_000.0,
    time=1_700_000_000.125,
    created=1_700_000_001.0,
    probability=0.93,
    threshold=0.8,
    model="sl/1",
    received=1.0,
    source_code=131845,
    encounter=Encounter(patient_ids=("4711",), family_name="CANARY"),
)


async def exchange(receiver: Receiver, *messages: bytes, raw: bytes = b"") -> list[Acknowledgement]:
    """Send, and read as many answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    writer.write(raw + b"".join(encode(message) for message in messages))
    decoder, answers = Decoder(), []
    async with asyncio.timeout(5):
        while len(answers) < len(messages) and (data := await reader.read(4096)):
            answers += [parse_acknowledgement(message) for message in decoder.feed(data)]
    writer.close()
    return answers


def read(alert: Alert) -> object:
    return received_from_message(parse(message_from_alert(alert, SETTINGS)), 5.0)


def test_it_reads_back_what_was_said() -> None:
    found = read(ALERT)
    assert dataclasses.asdict(found) == {  # type: ignore[call-overload]
        "bed": "h/icu/1",
        "label": "ST elevation (anterior - V3-V4)",
        "text": "Anterior ST elevation (advisory)",
        "code": 196648,
        "priority": "PH",
        "phase": "start",
        "active": True,
        "kind": "SP",
        "time": 1_700_000_000.125,
        "alert_id": "a",
        "message_id": "a-1",
        "patient_known": True,
        "location": "icu^^1^h",
        "received": 5.0,
    }
    line = str(found)
    assert line.startswith("!!! PH 22:13:20Z h/icu/1") and "CANARY" not in line and "\n" not in line


def test_it_reads_a_technical_alert_and_a_later_message() -> None:
    lost = dataclasses.replace(
        ALERT,
        label=ECG_MISSING,
        code=197378,
        ref_id="MDC_EVT_DATA_MISSING",
        text="No ECG | none",
        priority=Priority.LOW,
        phase=Phase.END,
        active=False,
        probability=None,
        encounter=None,
    )
    found = dataclasses.asdict(read(lost))  # type: ignore[call-overload]
    wanted = {"label": "MDC_EVT_DATA_MISSING", "text": "No ECG | none", "code": 197378, "kind": "ST", "phase": "end"}
    assert found | wanted == found
    assert (found["alert_id"], found["message_id"], found["patient_known"], found["active"]) == (
        "a",
        "a-1",
        False,
        False,
    )


@given(
    bed=st.text(max_size=12),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    time=st.floats(0, 4e9),
)
@settings(max_examples=100, deadline=None)
def test_any_text_comes_through(bed: str, text: str, time: float) -> None:
    bed = bed.encode("utf-8", "replace").decode()
    found = dataclasses.asdict(read(dataclasses.replace(ALERT, bed=bed, text=text, time=time)))  # type: ignore[call-overload]
    assert (found["bed"], found["text"]) == (bed, text) and found["time"] == pytest.approx(time, abs=0.002)


async def test_it_answers_every_message_and_counts_repetitions_once() -> None:
    other = dataclasses.replace(ALERT, message_id="b-1", alert_id="b")
    async with Receiver() as receiver:
        messages = [message_from_alert(a, SETTINGS) for a in (ALERT, other, ALERT)]
        answers = await exchange(receiver, *messages, raw=b"\0\r\nstray")
        assert [(a.code, a.message_id) for a in answers] == [("AA", "a-1"), ("AA", "b-1"), ("AA", "a-1")]
        assert [a.message_id for a in receiver.alerts] == ["a-1", "b-1"]
        assert (receiver.repeated, receiver.messages) == (1, 3)
        assert (await receiver.next()).message_id == "a-1"


async def test_it_knows_a_watchdog() -> None:
    async with Receiver() as receiver:
        message = watchdog_message("w", "w", Phase.START, 1_700_000_000.0, 5.0, SETTINGS)
        assert await exchange(receiver, message) == [Acknowledgement("AA", "w")]
        assert receiver.watchdogs == ["start"] and not receiver.alerts


@pytest.mark.parametrize("message", [b"HELO", b"MSH|^~\\&|", b"MSH|^~\\&|||||||ADT^A01|9|P|2.6\rPID|1\r"])
async def test_what_is_no_alert_is_rejected(message: bytes) -> None:
    async with Receiver() as receiver:
        (answer,) = await exchange(receiver, message)
        assert (answer.code, answer.error) == ("AR", "100") and not receiver.alerts


@pytest.mark.parametrize(
    ("how", "codes"),
    [
        (Misbehaviour.ERROR, ["AE"]),
        (Misbehaviour.REJECT, ["AR"]),
        (Misbehaviour.COMMIT, ["CA"]),
        (Misbehaviour.SPLIT, ["AA"]),
        (Misbehaviour.CLOSE, []),
        (Misbehaviour.CLOSE_MID, []),
    ],
)
async def test_it_misbehaves_once_as_told(how: Misbehaviour, codes: list[str]) -> None:
    async with Receiver(misbehaviours=[how]) as receiver:
        message = message_from_alert(ALERT, SETTINGS)
        assert [a.code for a in await exchange(receiver, message)] == codes
        assert [a.code for a in await exchange(receiver, message)] == ["AA"]
        assert len(receiver.alerts) == 1


async def test_it_refuses_a_label_for_as_long_as_told() -> None:
    async with Receiver(refuse=frozenset({ALERT.label})) as receiver:
        message = message_from_alert(ALERT, SETTINGS)
        assert [a.code for a in await exchange(receiver, message, message)] == ["AR", "AR"]
        receiver.refuse = frozenset()
        assert [a.code for a in await exchange(receiver, message)] == ["AA"]


@given(st.binary(max_size=80) | st.text("MSHOBRX|^~\\&\r1.", max_size=80).map(lambda t: b"MSH|^~\\&|" + t.encode()))
@settings(max_examples=200, deadline=None)
def test_garbage_is_one_of_two_errors(data: bytes) -> None:
    with contextlib.suppress(HL7Error, NoAlertError):
        received_from_message(parse(data), 0.0)
