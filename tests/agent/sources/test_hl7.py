"""The HL7 server with real sockets: many senders, none of whom can hurt another."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import structlog

from agent.core.ecg import (
    LEADS,
    Encounter,
    EncounterChange,
    EncounterEvent,
    Event,
    FloatArray,
    Phase,
    Samples,
    SourceAlarm,
)
from agent.core.hl7.mllp import Decoder, encode
from agent.core.hl7.patient import BedMap
from agent.ops.metrics import Metrics
from agent.ops.tls import TlsSettings, client_context
from agent.simulator import monitors
from agent.sources.hl7 import Grant, HL7Source, HL7SourceSettings, Sender

START = 1_700_000_000.0
PATIENT = Encounter(("4711CANARY^^^H^MR",), "Canaryname", "Canarygiven", "19510203", "F", "VISITCANARY")


def ecg(seconds: float = 1.0, rate: float = 250.0) -> FloatArray:
    return np.random.default_rng(7).normal(0, 0.4, (12, int(seconds * rate))).astype(np.float32)


def wave(dialect: str = "philips", bed: str = "demo/icu/b1", sequence: int = 1) -> bytes:
    return monitors.hl7_message(dialect, bed, LEADS, ecg(), 250.0, START + sequence, sequence, PATIENT)


@dataclass
class Running:
    source: HL7Source
    queue: asyncio.Queue[Event]
    metrics: Metrics

    async def connect(self, **options: Any) -> Sending:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.source.port, **options)
        return Sending(reader, writer, Decoder())

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@dataclass
class Sending:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: Decoder

    async def send(self, *messages: bytes) -> None:
        self.writer.write(b"".join(map(encode, messages)))
        await self.writer.drain()

    async def answers(self, number: int = 1) -> list[dict[bytes, list[bytes]]]:
        found: list[dict[bytes, list[bytes]]] = []
        async with asyncio.timeout(10):
            while len(found) < number:
                data = await self.reader.read(65536)
                if not data:
                    break
                found += [parsed(message) for message in self.frames.feed(data)]
        return found

    async def ask(self, message: bytes) -> tuple[str, dict[bytes, list[bytes]]]:
        await self.send(message)
        (answer,) = await self.answers()
        return answer[b"MSA"][1].decode(), answer

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                return await self.reader.read() == b""
        return True

    def close(self) -> None:
        self.writer.close()


def parsed(message: bytes) -> dict[bytes, list[bytes]]:
    return {row[:3]: row.split(message[3:4]) for row in reversed(message.rstrip(b"\r").split(b"\r"))}


@asynccontextmanager
async def running(size: int = 1000, **settings: Any) -> AsyncIterator[Running]:
    metrics = Metrics()
    queue: asyncio.Queue[Event] = asyncio.Queue(size)
    async with HL7Source(HL7SourceSettings(port=0, **settings), metrics) as source:
        task = asyncio.create_task(source.run(queue))
        try:
            yield Running(source, queue, metrics)
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.mark.parametrize("dialect", monitors.CADENCE)
async def test_takes_every_dialect_and_answers_once_the_samples_are_held(dialect: str) -> None:
    bed = "demo/icu/b1"
    async with running(beds=BedMap(lookup=monitors.bed_lookup(dialect, bed))) as run:
        sender = await run.connect()
        code, answer = await sender.ask(wave(dialect, bed))
        assert code in {"AA", "CA"}
        event = run.queue.get_nowait()
        assert isinstance(event, Samples)
        assert event.bed == bed
        assert len(event.channels) == 12
        np.testing.assert_allclose(np.array(event.values), ecg(), atol=0.0025)
        assert answer[b"MSA"][2]
        sender.close()


async def test_does_not_answer_before_the_queue_has_taken_the_events_and_stops_reading_meanwhile() -> None:
    async with running(size=1) as run:
        sender = await run.connect()
        await sender.send(*(wave(sequence=n) for n in range(1, 4)))
        assert len(await sender.answers(1)) == 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await sender.reader.read(1)
        run.queue.get_nowait()
        assert len(await sender.answers(1)) == 1
        run.queue.get_nowait()
        assert len(await sender.answers(1)) == 1
        # A sender that goes on is slowed by TCP: its writes end up waiting.
        blob = encode(wave(sequence=9)) * 400
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                while True:
                    sender.writer.write(blob)
                    await sender.writer.drain()
        sender.writer.transport.abort()


async def test_several_messages_in_one_write_and_one_message_in_many_writes() -> None:
    async with running() as run:
        sender = await run.connect()
        frames = b"\x00\r\n".join(encode(wave(sequence=n)) for n in range(1, 6))
        sender.writer.write(frames)
        assert len(await sender.answers(5)) == 5
        message = encode(wave(sequence=7))
        for at in range(0, len(message), 997):
            sender.writer.write(message[at : at + 997])
            await sender.writer.drain()
            await asyncio.sleep(0)
        assert len(await sender.answers(1)) == 1
        assert run.queue.qsize() == 6
        assert run.count("deepecg_messages_total", transport="hl7") == 6
        sender.close()


async def test_one_senders_rubbish_never_touches_another() -> None:
    rng = np.random.default_rng(3)
    good = wave(bed="demo/icu/good")
    async with running() as run:
        quiet = await run.connect()
        for _ in range(40):
            bad = await run.connect()
            mutated = bytearray(wave(bed="demo/icu/bad"))
            for at in rng.integers(0, len(mutated), 300):
                mutated[at] = rng.integers(0, 256)
            bad.writer.write(encode(bytes(mutated)) + rng.bytes(200) + b"\x0b" + rng.bytes(50))
            bad.close()
        for sequence in range(3):
            assert (await quiet.ask(good))[0] == "CA", sequence
        beds = {event.bed for event in drained(run.queue)}
        assert "demo/icu/good" in beds
        quiet.close()


async def test_defects_of_the_decoder_cost_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("Canaryname")

    async with running() as run:
        sender = await run.connect()
        with monkeypatch.context() as patched:
            patched.setattr("agent.sources.hl7.decode", broken)
            code, answer = await sender.ask(wave())
            assert code == "AE"
            assert answer[b"ERR"][3].startswith(b"207^")
        assert (await sender.ask(wave()))[0] == "CA"
        sender.close()


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
async def test_a_sender_speaks_only_for_the_beds_granted_to_it(
    grants: list[dict[str, Any]], bed: str, expected: str
) -> None:
    async with running(grants=grants) as run:
        sender = await run.connect()
        code, answer = await sender.ask(wave(bed=bed))
        assert code == expected
        if expected == "CR":
            assert run.queue.empty()
            assert answer[b"ERR"][3].startswith(b"207^")
            assert b"grants" in answer[b"ERR"][8]
            assert run.count("deepecg_refused_total", transport="hl7", reason="not_granted") == 1
        sender.close()


async def test_a_transfer_needs_the_right_to_both_beds() -> None:
    async with running(grants=[{"address": "127.0.0.1", "beds": ["demo/icu/*"]}]) as run:
        sender = await run.connect()
        moves = [("demo/icu/b2", "demo/icu/b1", "CA"), ("demo/icu/b2", "demo/or/b1", "CR")]
        for bed, prior, expected in moves:
            message = monitors.adt(EncounterEvent.TRANSFER, bed, PATIENT, 1, START, prior)
            assert (await sender.ask(message))[0] == expected
        (change,) = drained(run.queue)
        assert isinstance(change, EncounterChange)
        assert change.prior_bed == "demo/icu/b1"
        sender.close()


async def test_adt_and_alarms_arrive_as_events() -> None:
    async with running() as run:
        sender = await run.connect()
        await sender.ask(monitors.adt(EncounterEvent.ADMIT, "demo/icu/b1", PATIENT, 1, START))
        await sender.ask(monitors.r40("demo/icu/b1", 199684, "MDC_EVT_ECG_ASYSTOLE", "ASYSTOLE", Phase.START, START, 2))
        admitted, alarm = drained(run.queue)
        assert isinstance(admitted, EncounterChange)
        assert admitted.encounter.family_name == PATIENT.family_name
        assert isinstance(alarm, SourceAlarm)
        assert (alarm.code, alarm.phase, alarm.active) == (199684, Phase.START, True)
        sender.close()


async def test_unknown_types_and_headerless_messages_are_refused_and_the_connection_lives() -> None:
    async with running() as run:
        sender = await run.connect()
        code, answer = await sender.ask(b"MSH|^~\\&|A|B|||20260101||MDM^T02|7|P|2.5\r")
        assert (code, answer[b"MSA"][2], answer[b"ERR"][3][:4]) == ("AR", b"7", b"200^")
        code, answer = await sender.ask(b"hello")
        assert (code, answer[b"MSA"][2]) == ("AR", b"")
        assert (await sender.ask(wave()))[0] == "CA"
        sender.close()


async def test_an_acknowledgement_is_never_acknowledged() -> None:
    async with running() as run:
        sender = await run.connect()
        await sender.send(b"MSH|^~\\&|A|B|||20260101||ACK^R01|7|P|2.5\rMSA|AA|1\r", wave())
        (answer,) = await sender.answers(1)
        assert answer[b"MSA"][1] == b"CA"
        assert run.count("deepecg_faults_total", transport="hl7", reason="acknowledgement") == 1
        sender.close()


async def test_a_message_beyond_the_limit_ends_its_connection_with_a_reason() -> None:
    async with running(message_limit=20_000) as run:
        sender = await run.connect()
        other = await run.connect()
        sender.writer.write(b"\x0bMSH|^~\\&|" + b"x" * 30_000)
        (answer,) = await sender.answers(1)
        assert answer[b"MSA"][1] == b"AR"
        assert b"20000" in answer[b"ERR"][8]
        assert await sender.closed()
        assert (await other.ask(wave()))[0] == "CA"
        assert run.count("deepecg_faults_total", transport="hl7", reason="too_long") == 1
        other.close()


async def test_silent_peers_and_messages_that_never_end_are_cut_off() -> None:
    async with running(idle_seconds=0.3) as run:
        silent = await run.connect()
        assert await silent.closed()
        assert run.count("deepecg_faults_total", transport="hl7", reason="timeout") == 1
    async with running(message_seconds=0.4) as run:
        dripping = await run.connect()

        async def drip() -> None:
            with suppress(ConnectionError):
                for _ in range(100):
                    dripping.writer.write(b"\x0b" if _ == 0 else b"x")
                    await dripping.writer.drain()
                    await asyncio.sleep(0.05)

        task = asyncio.create_task(drip())
        assert await dripping.closed()
        task.cancel()


async def test_a_peer_that_never_reads_its_acknowledgements_is_cut_off() -> None:
    # The kernel's buffers take a few megabytes before the server feels anything, hence the long MSH-3 that comes back.
    loud = b"MSH|^~\\&|" + b"A" * 500 + b"|" + b"B" * 500 + b"|||20260101||MDM^T02|7|P|2.5\r"
    async with running(write_seconds=0.5) as run:
        deaf = socket.create_connection(("127.0.0.1", run.source.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        blob = encode(loud) * 200
        with pytest.raises(OSError):
            async with asyncio.timeout(60):
                while True:
                    await loop.sock_sendall(deaf, blob)
        deaf.close()
        assert run.count("deepecg_faults_total", transport="hl7", reason="timeout") == 1


async def test_a_connection_that_dies_inside_a_message_is_counted() -> None:
    async with running() as run:
        sender = await run.connect()
        sender.writer.write(encode(wave())[:5000])
        await sender.writer.drain()
        sender.close()
        await until(lambda: run.count("deepecg_faults_total", transport="hl7", reason="truncated") == 1)
        reset = await run.connect()
        reset.writer.write(encode(wave())[:5000])
        await reset.writer.drain()
        reset.writer.transport.abort()
        other = await run.connect()
        assert (await other.ask(wave()))[0] == "CA"
        other.close()


async def test_connections_are_limited_and_counted() -> None:
    async with running(max_connections=2) as run:
        first, second = await run.connect(), await run.connect()
        assert (await first.ask(wave()))[0] == "CA"
        third = await run.connect()
        assert await third.closed()
        assert run.count("deepecg_refused_total", transport="hl7", reason="too_many_connections") == 1
        assert run.count("deepecg_connections", transport="hl7") == 2
        first.close()
        await until(lambda: run.count("deepecg_connections", transport="hl7") == 1)
        fourth = await run.connect()
        assert (await fourth.ask(wave()))[0] == "CA"
        for sender in (second, fourth):
            sender.close()


async def test_whom_no_grant_covers_takes_nobodys_place_and_is_soon_closed() -> None:
    grants = [{"address": "127.0.0.1", "beds": ["*"]}]
    async with running(max_connections=2, message_seconds=0.5, grants=grants) as run:
        strangers = [await run.connect(local_addr=("127.0.0.2", 0)) for _ in range(12)]
        assert (await strangers[0].ask(wave()))[0] == "CR"
        known = [await run.connect(), await run.connect()]
        for sender in known:
            assert (await sender.ask(wave()))[0] == "CA"
        assert run.count("deepecg_refused_total", transport="hl7", reason="too_many_connections") == 4
        assert all([await stranger.closed() for stranger in strangers])
        for sender in known:
            assert (await sender.ask(wave()))[0] == "CA"
            sender.close()


async def test_a_transfer_that_names_no_bed_left_reaches_no_further_than_its_sender() -> None:
    async with running(grants=[{"address": "127.0.0.1", "beds": ["demo/icu/*"]}]) as run:
        sender = await run.connect()
        await sender.ask(monitors.adt(EncounterEvent.TRANSFER, "demo/icu/b2", PATIENT, 1, START))
        (change,) = drained(run.queue)
        assert isinstance(change, EncounterChange)
        assert change.may_empty("demo/icu/b1")
        assert not change.may_empty("demo/or/b1")
        sender.close()


async def test_many_connections_at_once() -> None:
    async with running() as run:
        senders = [await run.connect() for _ in range(60)]
        beds = [f"demo/icu/b{n}" for n in range(60)]
        answers = await asyncio.gather(*(sender.ask(wave(bed=bed)) for sender, bed in zip(senders, beds, strict=True)))
        assert {code for code, _ in answers} == {"CA"}
        assert {event.bed for event in drained(run.queue)} == set(beds)
        for sender in senders:
            sender.close()


async def test_a_repeated_message_is_counted_and_still_taken() -> None:
    async with running() as run:
        sender = await run.connect()
        for _ in range(3):
            await sender.ask(wave())
        assert run.count("deepecg_duplicates_total", transport="hl7") == 2
        assert run.queue.qsize() == 3
        sender.close()


async def test_the_dialect_may_be_configured_by_sender() -> None:
    message = wave("ge").replace(b"|WFM||||", b"|UNKNOWN||||")
    bed = {"icu-b1": "demo/icu/b1"}
    async with running(beds=BedMap(lookup=bed)) as run:
        sender = await run.connect()
        # 240 "s" makes no rate for a sender that is not known to mean Hz.
        assert (await sender.ask(message))[0] == "CE"
        sender.close()
    rules = [Sender(application="UNKNOWN", dialect="ge")]
    async with running(beds=BedMap(lookup=bed), senders=rules) as run:
        sender = await run.connect()
        assert (await sender.ask(message))[0] == "CA"
        sender.close()


async def test_logs_hold_no_patient() -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(grants=[{"address": "127.0.0.1", "beds": ["demo/icu/*"]}]) as run:
            sender = await run.connect()
            bad = wave().replace(b"131330^MDC_ECG_ELEC_POTL_II^", b"131331^MDC_ECG_ELEC_POTL_II^")
            worse = wave().replace(b"10.mV/4096", b"Canaryname")
            for message in (
                wave(),
                bad,
                worse,
                wave(bed="demo/or/b1"),
                monitors.adt(EncounterEvent.ADMIT, "demo/or/b1", PATIENT, 1, START),
                monitors.adt("A99", "demo/icu/b1", PATIENT, 1, START),
                wave()[40:],
                b"PID|1||4711CANARY||Canaryname^Canarygiven",
            ):
                await sender.ask(message)
            sender.writer.write(b"Canaryname\x0bCanaryname")
            await sender.writer.drain()
            sender.close()
            await until(lambda: run.count("deepecg_connections", transport="hl7") == 0)
            text = repr(logs) + run.metrics.render().decode()
    assert len(logs) > 5
    assert "canary" not in text.lower()
    assert "19510203" not in text


# TLS -----------------------------------------------------------------------------------------------------------------


async def test_a_client_certificate_speaks_for_its_beds_alone(authorities: Any) -> None:
    authority = authorities("ca")
    grants = [Grant(certificate="gateway-icu", beds=("demo/icu/*",))]
    async with running(tls=authority.issue("server"), grants=grants) as run:
        known = await run.connect(ssl=client_context(authority.issue("gateway-icu")))
        assert (await known.ask(wave(bed="demo/icu/b1")))[0] == "CA"
        assert (await known.ask(wave(bed="demo/or/b1")))[0] == "CR"
        other = await run.connect(ssl=client_context(authority.issue("gateway-or")))
        assert (await other.ask(wave(bed="demo/icu/b1")))[0] == "CR"
        # Large messages, several at once, through the TLS layer.
        await known.send(*(wave(sequence=n) for n in range(40)))
        assert len(await known.answers(40)) == 40
        for sender in (known, other):
            sender.close()


async def test_strangers_and_plain_text_do_not_pass_the_handshake(authorities: Any) -> None:
    authority, stranger = authorities("ca"), authorities("other")
    async with running(tls=authority.issue("server"), message_seconds=1.0) as run:
        anonymous = client_context(TlsSettings(ca=authority.path))
        foreign = stranger.issue("gateway").model_copy(update={"ca": authority.path})
        for context in (anonymous, client_context(foreign)):
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                sender = await run.connect(ssl=context)
                await sender.send(wave())
                assert await sender.answers(1)
        plain = await run.connect()
        await plain.send(wave())
        with suppress(ConnectionError):
            assert not await plain.answers(1)
        silent = await run.connect()
        assert await silent.closed()
        known = await run.connect(ssl=client_context(authority.issue("gateway")))
        assert (await known.ask(wave()))[0] == "CA"
        known.close()
        assert run.queue.qsize() == 1


async def test_new_certificates_are_used_without_a_restart(authorities: Any) -> None:
    old, new = authorities("old"), authorities("new")
    server = old.issue("server", "server")
    async with running(tls=server) as run:
        client = client_context(old.issue("gateway"))
        staying = await run.connect(ssl=client)
        assert (await staying.ask(wave()))[0] == "CA"
        new.issue("server", "server")
        old.path.write_bytes(new.path.read_bytes())
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            late = await run.connect(ssl=client)
            await late.send(wave())
            assert await late.answers(1)
        fresh = await run.connect(ssl=client_context(new.issue("gateway2")))
        assert (await fresh.ask(wave()))[0] == "CA"
        assert (await staying.ask(wave()))[0] == "CA"
        for sender in (staying, fresh):
            sender.close()


def drained(queue: asyncio.Queue[Event]) -> list[Event]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
