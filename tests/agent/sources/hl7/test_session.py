"""One sender's session without a socket: what each message comes to, by the rules that the module opens with."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.ecg import LEADS, Encounter, EncounterChange, EncounterEvent, Phase, Samples, SourceAlarm
from agent.core.hl7.message import Message, parse
from agent.core.hl7.mllp import Decoder, encode
from agent.core.hl7.patient import BedMap
from agent.simulator import monitors
from agent.sources.hl7.session import Exchange, Note, NoteKind, Rules, Session, State
from agent.sources.hl7.settings import HL7SourceSettings, Peer, Sender

START = 1_700_000_000.0
PATIENT = Encounter(("4711CANARY^^^H^MR",), "Canaryname", "Canarygiven", "19510203", "F", "VISITCANARY")
ECG = np.random.default_rng(7).normal(0, 0.4, (12, 250)).astype(np.float32)
ICU = {"grants": [{"address": "127.0.0.1", "beds": ["demo/icu/*"]}]}
HEAD = "MSH|^~\\&|A|B|||20260101||"


def wave(dialect: str = "philips", bed: str = "demo/icu/b1", sequence: int = 1) -> bytes:
    return monitors.hl7_message(dialect, bed, LEADS, ECG, 250.0, START + sequence, sequence, PATIENT)


def session(address: str = "127.0.0.1", **settings: Any) -> Session:
    return Session(Rules.of(HL7SourceSettings.model_validate(settings)), Peer(ip_address(address)))


def exchanges(of: Session, *pieces: bytes, notes: list[Note] | None = None) -> list[Exchange]:
    found: list[Exchange] = []
    for piece in pieces:
        between = of.feed(piece, 5.0)
        if notes is not None:
            notes += between
        while (exchange := of.next_exchange()) is not None:
            found.append(exchange)
    return found


def ask(of: Session, message: bytes) -> Exchange:
    (found,) = exchanges(of, encode(message))
    return found


def answers(exchange: Exchange) -> list[Message]:
    ids = (f"id{number}" for number in itertools.count(1))
    return [parse(answer) for answer in Decoder().feed(exchange.answer(ids, START))]


def error_of(exchange: Exchange) -> tuple[str, str]:
    """ERR-3.1 and ERR-8 of the one answer."""
    (answer,) = answers(exchange)
    row = answer.first(b"ERR")
    assert row is not None
    return answer.component(row, 3), answer.component(row, 8)


def faults(exchange: Exchange) -> list[str]:
    return [note.reason for note in exchange.notes if note.kind is NoteKind.FAULT]


@pytest.mark.parametrize("dialect", monitors.CADENCE)
def test_every_dialect_in_every_way_that_bytes_may_come(
    dialect: str, every_way: Callable[..., list[list[bytes]]]
) -> None:
    bed = "demo/icu/b1"
    stream = encode(wave(dialect, bed)) + b"\x00\r\n" + encode(wave(dialect, bed, 2))
    for pieces in every_way(stream, b"\x0bMSH|half of the next"):
        talk = session(beds=BedMap(lookup=monitors.bed_lookup(dialect, bed)))
        found = exchanges(talk, *pieces)
        assert [exchange.codes for exchange in found] in ([("CA",)] * 2, [("AA",)] * 2)
        for exchange in found:
            (block,) = exchange.events
            assert isinstance(block, Samples)
            assert (block.bed, len(block.channels)) == (bed, 12)
            np.testing.assert_allclose(np.array(block.values), ECG, atol=0.0025)
        assert talk.state is State.OPEN


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_whatever_comes_every_message_is_answered_for_or_is_an_acknowledgement(chunks: list[bytes]) -> None:
    talk = session(message_limit=1024)
    for exchange in exchanges(talk, *chunks):
        assert exchange.codes or "acknowledgement" in faults(exchange)
        assert exchange.events or exchange.notes
        assert len(answers(exchange)) == len(exchange.codes)


def test_adt_and_alarms_are_events() -> None:
    talk = session()
    (admitted,) = ask(talk, monitors.adt(EncounterEvent.ADMIT, "demo/icu/b1", PATIENT, 1, START)).events
    alarm = monitors.r40("demo/icu/b1", 199684, "MDC_EVT_ECG_ASYSTOLE", "ASYSTOLE", Phase.START, START, 2)
    (raised,) = ask(talk, alarm).events
    assert isinstance(admitted, EncounterChange)
    assert admitted.encounter.family_name == PATIENT.family_name
    assert isinstance(raised, SourceAlarm)
    assert (raised.code, raised.phase, raised.active) == (199684, Phase.START, True)


# Rule 2 ---------------------------------------------------------------------------------------------------------------


def test_an_acknowledgement_is_never_answered() -> None:
    found = ask(session(), (HEAD + "ACK^R01|7|P|2.5\rMSA|AA|1\r").encode())
    assert (found.events, found.codes, faults(found)) == ((), (), ["acknowledgement"])
    assert found.answer(iter(()), START) == b""


# Rule 3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grants", "bed", "expected"),
    [
        ([{"address": "127.0.0.0/8", "beds": ["demo/icu/*"]}], "demo/icu/b1", "CA"),
        ([{"address": "127.0.0.0/8", "beds": ["demo/icu/*"]}], "demo/or/b1", "CR"),
        ([{"address": "10.0.0.0/8", "beds": ["*"]}], "demo/icu/b1", "CR"),
        ([{"application": "PIC iX", "facility": "demo", "beds": ["*"]}], "demo/icu/b1", "CA"),
        ([{"application": "OTHER", "beds": ["*"]}], "demo/icu/b1", "CR"),
        ([{"certificate": "gateway", "beds": ["*"]}], "demo/icu/b1", "CR"),
    ],
)
def test_a_sender_speaks_only_for_the_beds_granted_to_it(grants: list[dict[str, Any]], bed: str, expected: str) -> None:
    found = ask(session(grants=grants), wave(bed=bed))
    assert found.codes == (expected,)
    assert bool(found.events) == (expected == "CA")
    refused = [note for note in found.notes if note.kind is NoteKind.REFUSED]
    assert [note.reason for note in refused] == (["not_granted"] if expected == "CR" else [])
    if refused:
        assert refused[0].context["bed"] == bed
        code, text = error_of(found)
        assert code == "207"
        assert "grants" in text


def test_a_transfer_needs_the_right_to_both_beds() -> None:
    talk = session(**ICU)
    for prior, code in (("demo/icu/b1", "CA"), ("demo/or/b1", "CR")):
        found = ask(talk, monitors.adt(EncounterEvent.TRANSFER, "demo/icu/b2", PATIENT, 1, START, prior))
        assert found.codes == (code,)
        assert [event.prior_bed for event in found.events if isinstance(event, EncounterChange)] == (
            [prior] if code == "CA" else []
        )


def test_a_transfer_that_names_no_bed_left_reaches_no_further_than_its_sender() -> None:
    (change,) = ask(session(**ICU), monitors.adt(EncounterEvent.TRANSFER, "demo/icu/b2", PATIENT, 1, START)).events
    assert isinstance(change, EncounterChange)
    assert change.may_empty("demo/icu/b1")
    assert not change.may_empty("demo/or/b1")


def test_a_stranger_is_one_whom_no_grant_can_cover() -> None:
    assert session("10.0.0.1", **ICU).stranger
    assert not session(**ICU).stranger
    assert not session("10.0.0.1", grants=[{"certificate": "gateway", "beds": ["*"]}]).stranger


# Rule 4 ---------------------------------------------------------------------------------------------------------------


def test_unknown_types_and_headerless_messages_cost_themselves_alone() -> None:
    talk = session()
    found = ask(talk, (HEAD + "MDM^T02|7|P|2.5\r").encode())
    assert (found.codes, error_of(found)[0]) == (("AR",), "200")
    (answer,) = answers(found)
    assert answer.component(answer.segments[1], 2) == "7"
    found = ask(talk, b"hello")
    assert (found.codes, faults(found), found.header) == (("AR",), ["no_header"], None)
    assert ask(talk, wave()).codes == ("CA",)


def test_a_defect_of_the_decoder_costs_one_message_and_tells_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("Canaryname")

    talk = session()
    with monkeypatch.context() as patched:
        patched.setattr("agent.sources.hl7.session.decode", broken)
        found = ask(talk, wave())
    assert (found.codes, faults(found), error_of(found)[0]) == (("AE",), ["defect"], "207")
    assert found.notes[0].context["defect"] == "KeyError"
    assert "Canary" not in repr(found.notes) + repr(found.errors) + error_of(found)[1]
    assert ask(talk, wave()).codes == ("CA",)


def test_a_frame_beyond_the_limit_is_the_last_thing_that_is_answered() -> None:
    talk = session(message_limit=20_000)
    (found,) = exchanges(talk, b"\x0bMSH|^~\\&|" + b"x" * 30_000)
    assert (found.last, found.codes, faults(found)) == (True, ("AR",), ["too_long"])
    assert "20000" in error_of(found)[1]
    assert talk.state is State.CLOSING
    assert exchanges(talk, encode(wave())) == []


# Rule 5 ---------------------------------------------------------------------------------------------------------------


def test_what_comes_again_is_noted_each_time_and_new_once() -> None:
    talk = session()
    bad = (HEAD + "MDM^T02|7|P|2.5\r").encode()
    assert [note.new for _ in range(3) for note in ask(talk, bad).notes] == [True, False, False]


def test_a_repeated_message_is_noted_and_still_taken() -> None:
    talk = session()
    found = [ask(talk, wave()) for _ in range(3)]
    assert all(exchange.events for exchange in found)
    assert [[note.kind for note in exchange.notes] for exchange in found] == [[], *[[NoteKind.DUPLICATE]] * 2]


def test_a_scale_that_nobody_has_checked_is_remarked_upon_until_the_site_sets_it() -> None:
    for settings, remarks in (({}, 1), ({"ecg_scale": {"mindray": 0.001}}, 0)):
        found = ask(session(**settings), wave("mindray"))
        assert len([note for note in found.notes if note.kind is NoteKind.REMARK]) == remarks


def test_bytes_between_frames_and_frames_that_never_end_are_noted() -> None:
    notes: list[Note] = []
    talk = session()
    exchanges(talk, b"\x00\r\njunk", b"\x0blost\x0balso lost\x0b", notes=notes)
    assert [(note.reason, note.amount) for note in notes] == [("stray_bytes", 1), ("truncated", 2)]
    assert [note.reason for note in talk.end()] == ["truncated"]
    assert talk.state is State.CLOSED
    assert session().end() == ()


# Dialects and time ----------------------------------------------------------------------------------------------------


def test_the_dialect_may_be_configured_by_sender() -> None:
    message = wave("ge").replace(b"|WFM||||", b"|UNKNOWN||||")
    beds = BedMap(lookup={"icu-b1": "demo/icu/b1"})
    # 240 "s" makes no rate for a sender that is not known to mean Hz.
    assert ask(session(beds=beds), message).codes == ("CE",)
    rules = (Sender(application="UNKNOWN", dialect="ge"),)
    assert ask(session(beds=beds, senders=rules), message).codes == ("CA",)


def test_patience_is_longest_for_the_idle_and_a_frame_has_its_own_from_the_first_wait() -> None:
    talk = session(idle_seconds=100.0, message_seconds=30.0)
    assert (talk.patience(1000.0), talk.lacks) == (100.0, "nothing came")
    talk.feed(b"\x0bMSH", 1000.0)
    assert (talk.patience(1010.0), talk.lacks) == (30.0, "a message did not end")
    talk.feed(b"|^~", 1020.0)
    assert talk.patience(1025.0) == 15.0, "a message that drips gets no more time"
    assert talk.patience(1099.0) == 0.0
    talk.feed(b"\x1c\r\x0bMSH", 1030.0)
    assert talk.patience(1035.0) == 30.0, "the next one gets its own"
    assert session("10.0.0.1", idle_seconds=100.0, message_seconds=30.0, **ICU).patience(0.0) == 30.0
