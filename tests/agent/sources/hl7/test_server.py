"""The HL7 server with real sockets: many senders, none of whom can hurt another. What a message comes to: `session`."""

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
    EncounterEvent,
    Event,
    FloatArray,
    Samples,
)
from agent.core.hl7.mllp import Decoder, encode
from agent.core.hl7.patient import BedMap
from agent.ops.metrics import Metrics
from agent.ops.tls import TlsSettings, client_context
from agent.simulator import monitors
from agent.sources.hl7.server import HL7Source
from agent.sources.hl7.settings import Grant, HL7SourceSettings

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

    async def turns_away(self, context: ssl.SSLContext | None) -> bool:
        """Whether a sender with this context (None: plain text) gets no answer, but the connection's end."""
        try:
            sender = await self.connect(ssl=context)
            await sender.send(wave())
            answered = await sender.answers(1)
        except (ssl.SSLError, ConnectionError):
            return True
        sender.close()
        return not answered

    def count(self, name: str, **labels: str) -> float | None:
        """None where nothing has been counted under these labels yet."""
        return self.metrics.registry.get_sample_value(name, labels)


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

    async def hears(self, seconds: float) -> bool:
        """Whether anything comes within that time."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read(1) != b""
        except TimeoutError:
            return False

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
        assert code == ("AA" if dialect in {"capsule", "wcm"} else "CA")
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
        for handled in (2, 3):
            # The queue is full with the message before, and this one waits before it.
            assert len(await sender.answers(1)) == 1
            await until(lambda n=handled: run.count("deepecg_messages_total", transport="hl7") == n)
            assert not await sender.hears(0.05)
            run.queue.get_nowait()
        assert len(await sender.answers(1)) == 1
        # A sender that goes on is slowed by TCP: its writes end up waiting, and next to nothing of them is read.
        blob = encode(wave(sequence=9)) * 400
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    sender.writer.write(blob)
                    await sender.writer.drain()
        assert sender.writer.transport.get_write_buffer_size() > 0
        assert run.count("deepecg_messages_total", transport="hl7") == 4
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
    async with running(idle_seconds=0.05) as run:
        silent = await run.connect()
        assert await silent.closed()
        assert run.count("deepecg_faults_total", transport="hl7", reason="timeout") == 1
    async with running(message_seconds=0.1) as run:
        dripping = await run.connect()

        async def drip() -> None:
            with suppress(ConnectionError):
                dripping.writer.write(b"\x0b")
                while True:
                    dripping.writer.write(b"x")
                    await dripping.writer.drain()
                    await asyncio.sleep(0.01)

        task = asyncio.create_task(drip())
        assert await dripping.closed()
        task.cancel()
        assert run.count("deepecg_faults_total", transport="hl7", reason="timeout") == 1


async def test_a_peer_that_never_reads_its_acknowledgements_is_cut_off() -> None:
    # The kernel's buffers take a few megabytes before the server feels anything, hence the long MSH-3 that comes back.
    loud = b"MSH|^~\\&|" + b"A" * 500 + b"|" + b"B" * 500 + b"|||20260101||MDM^T02|7|P|2.5\r"
    async with running(write_seconds=0.1) as run:
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
    async with running(max_connections=2, message_seconds=0.3, grants=grants) as run:
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
    async with running(tls=authority.issue("server"), message_seconds=0.5) as run:
        anonymous = client_context(TlsSettings(ca=authority.path))
        foreign = stranger.issue("gateway").model_copy(update={"ca": authority.path})
        for context in (anonymous, client_context(foreign), None):
            assert await run.turns_away(context)
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
        assert await run.turns_away(client)
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
