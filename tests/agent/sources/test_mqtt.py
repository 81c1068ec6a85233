"""The source against a real mosquitto: blocks in order, once each, whatever others publish."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.core.ecg import LEADS, Event, Fault, Lead, Samples
from agent.core.mqtt.binary import BINARY_TYPE, encode_binary
from agent.core.mqtt.block import ecg_block
from agent.core.mqtt.document import encode_cbor, encode_json, encode_offset_binary
from agent.core.mqtt.topic import Address
from agent.mqtt.link import MqttLink
from agent.mqtt.settings import BrokerSettings
from agent.ops.metrics import Metrics, totals
from agent.sources.mqtt import FaultLog, MqttSource
from agent.sources.mqtt_settings import MqttSourceSettings

TOPIC = "ward/v1/north/icu/{}/ecg/monitor"


def source_settings(port: int, **more: Any) -> MqttSourceSettings:
    more = {"host": "127.0.0.1", "reconnect_min": 0.05, "reconnect_max": 0.2} | more
    return MqttSourceSettings(port=port, **more)


def writer_of(port: int) -> MqttLink:
    mine = BrokerSettings(host="127.0.0.1", port=port, client_id="device", reconnect_min=0.05, reconnect_max=0.2)
    return MqttLink(mine, Metrics(), "device")


def block(sequence: int | None, *, start: float | None = 0.0, n: int = 50, **fields: Any) -> Samples:
    leads = {Lead.I: np.full(n, 0.25, np.float32), Lead.II: np.full(n, 0.5, np.float32)}
    begin = None if start is None else 1.75e9 + start + (sequence or 0) * 0.2
    return ecg_block("north/icu/7", "monitor", leads, 250.0, start=begin, sequence=sequence, **fields)


async def within(seconds: float, what: Any) -> Any:
    async with asyncio.timeout(seconds):
        return await what


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


class Line:
    """A source with its queue, and a device beside it."""

    def __init__(self, port: int, size: int = 100, **more: Any) -> None:
        self.metrics = Metrics()
        self.queue: asyncio.Queue[Event] = asyncio.Queue(size)
        self.source = MqttSource(source_settings(port, **more), self.metrics)
        self.device = writer_of(port)
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Line:
        await self.source.__aenter__()
        await self.device.__aenter__()
        await self._tasks.__aenter__()
        self._run = self._tasks.create_task(self.source.run(self.queue))
        await self.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._run.cancel()
        await self._tasks.__aexit__(None, None, None)
        await self.device.__aexit__(None, None, None)
        await self.source.__aexit__(None, None, None)

    async def ready(self) -> None:
        await within(10, self.source.subscribed.wait())
        await within(10, self.device.connected.wait())

    async def send(self, payload: bytes, bed: str = "7", **options: Any) -> None:
        await within(5, self.device.publish(TOPIC.format(bed), payload, **options))

    async def next(self) -> Samples:
        event = await within(5, self.queue.get())
        assert isinstance(event, Samples)
        return event

    async def cut(self) -> None:
        """Lose the connection as a network does, and wait for the next one."""
        lost = self.source._link._up
        assert lost is not None
        lost.drop("cut by the test")
        await until(lambda: self.source._link._up not in (None, lost))
        await self.ready()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_every_payload_reaches_the_queue(mosquitto: int, protocol: str) -> None:
    async with Line(mosquitto, protocol=protocol) as line:
        for i, encode in enumerate((encode_binary, encode_cbor, encode_json, encode_offset_binary)):
            await line.send(encode(block(i)))
            got = await line.next()
            assert (got.bed, got.device, got.sequence) == ("north/icu/7", "monitor", i)
            np.testing.assert_allclose(got.values[1], 0.5, atol=1e-3)
            assert got.received > 0
        await line.send(encode_binary(block(4)), content_type=BINARY_TYPE)
        assert (await line.next()).sequence == 4
        assert totals(line.metrics.messages) == {"mqtt": 5}
        assert totals(line.metrics.sequence_gaps) == {}


async def test_a_message_is_acknowledged_only_once_it_is_held(mosquitto: int) -> None:
    """The connection is cut while a block waits for room: it comes again, is known, and passes once."""
    async with Line(mosquitto, size=1) as line:
        for i in range(4):
            await line.send(encode_binary(block(i)))
        # 0 is in the queue, 1 waits at the door, 2 and 3 in the inbox
        await until(lambda: line.source._link._inbox._queue.qsize() == 2)
        await line.cut()
        assert [(await line.next()).sequence for _ in range(4)] == [0, 1, 2, 3]
        await line.send(encode_binary(block(4)))
        assert (await line.next()).sequence == 4
        # the one that waited, and the first if it was not yet acknowledged
        assert totals(line.metrics.duplicates)["mqtt"] in (1, 2)
        assert totals(line.metrics.sequence_gaps) == {}


async def test_the_broker_is_killed_mid_stream(start_mosquitto: Callable[..., Any]) -> None:
    broker = start_mosquitto()
    async with Line(broker.port) as line:
        for i in range(5):
            await line.send(encode_binary(block(i)))
        broker.stop(signal.SIGKILL)
        await until(lambda: not (line.source.connected.is_set() or line.device.connected.is_set()))
        broker.start()
        await line.ready()
        for i in range(8, 10):  # 5 to 7 were lost with the broker
            await line.send(encode_binary(block(i)))
        assert [(await line.next()).sequence for _ in range(7)] == [0, 1, 2, 3, 4, 8, 9]
        assert totals(line.metrics.sequence_gaps) == {"mqtt": 3}


async def test_a_device_sends_again(mosquitto: int) -> None:
    async with Line(mosquitto) as line:
        for i in (0, 1, 1, 2, 0, 3, 3):
            await line.send(encode_binary(block(i)))
        assert [(await line.next()).sequence for _ in range(4)] == [0, 1, 2, 3]
        assert totals(line.metrics.duplicates) == {"mqtt": 3}


async def test_one_devices_garbage_never_touches_anothers(mosquitto: int) -> None:
    garbage = (
        b"",
        b"\x00" * 100,
        b"DECG",
        b"{",
        b"{}",
        b"\xa0",
        encode_binary(block(0))[:-1],
        b'{"rate":"x","leads":{}}',
    )
    with capture_logs() as logs:
        async with Line(mosquitto) as line:
            for i in range(30):
                await line.send(garbage[i % len(garbage)], bed="8")
                await line.send(encode_binary(block(i)))
                assert (await line.next()).sequence == i
            faults = totals(line.metrics.faults)
            assert set(faults) <= {f"mqtt/{reason}" for reason in ("syntax", "length", "rate", "channels")}
            assert sum(faults.values()) == 30
            assert line.queue.empty()
    refusals = [entry for entry in logs if entry["event"] == "mqtt_message_refused"]
    assert {entry["bed"] for entry in refusals} == {"north/icu/8"}
    assert len(refusals) <= 4  # once per kind, not once per message


async def test_retained_messages_are_stale(mosquitto: int) -> None:
    async with writer_of(mosquitto) as device:
        await within(5, device.connected.wait())
        await device.publish(TOPIC.format("7"), encode_binary(block(0)), retain=True)
    async with Line(mosquitto) as line:
        await line.send(encode_binary(block(1)))
        assert (await line.next()).sequence == 1


async def test_beds_that_the_broker_may_not_speak_for(mosquitto: int) -> None:
    async with Line(mosquitto, beds=("north/icu/7", "north/ward-?/*")) as line:
        await line.send(encode_binary(block(0)), bed="8")
        await line.send(encode_binary(block(0)), bed="7")
        assert (await line.next()).bed == "north/icu/7"
        assert totals(line.metrics.refused) == {"mqtt/bed": 1}
        assert totals(line.metrics.faults) == {"mqtt/topic": 1}


async def test_several_templates(mosquitto: int) -> None:
    topics = ("ward/v1/{site}/{unit}/{bed}/ecg/{device}", "gateway/{bed}")
    async with Line(mosquitto, topics=topics, site="south", unit="ccu", device="gw") as line:
        await line.device.publish("gateway/3", encode_json(block(0)))
        got = await line.next()
        assert (got.bed, got.device) == ("south/ccu/3", "gw")


async def test_a_slow_line_holds_the_broker_back(mosquitto: int) -> None:
    async with Line(mosquitto, size=1, receive_maximum=3) as line:
        sending = asyncio.create_task(send_many(line, 40))
        inbox = line.source._link._inbox._queue
        await until(lambda: inbox.qsize() == 2)  # and one waits at the door: the broker keeps the rest
        for i in range(40):
            assert inbox.qsize() <= 5  # mosquitto 2.0.11 sends up to two more than the receive maximum
            assert (await line.next()).sequence == i
        await within(5, sending)
        assert totals(line.metrics.sequence_gaps) == totals(line.metrics.duplicates) == {}


async def send_many(line: Line, count: int) -> None:
    for i in range(count):
        await line.send(encode_binary(block(i)))


async def test_patient_data_stay_out_of_logs_and_metrics(mosquitto: int) -> None:
    canary = "KANARIENVOGEL"
    with capture_logs() as logs:
        async with Line(mosquitto) as line:
            await line.send(encode_json(block(0, patient=(canary,))))
            await line.next()
            for payload in (
                encode_json(block(1, patient=(canary,))).replace(b'"rate":250.0', b'"rate":-1'),
                b'{"rate":250,"leads":{"%s":[1]}}' % canary.encode(),
                b'{"rate":250,"patient":["%s\\r"],"leads":{"II":[1]}}' % canary.encode(),
                canary.encode(),
                b'{"%s":' % canary.encode(),
                b'{"rate":"%s","leads":{"II":[1]}}' % canary.encode(),
                b'{"rate":250,"time":"%s","leads":{"II":[1]}}' % canary.encode(),
            ):
                await line.send(payload)
            await until(lambda: totals(line.metrics.messages) == {"mqtt": 8})
            assert canary.encode() not in line.metrics.render()
    assert canary not in repr(logs)


# --- what is remembered of devices


def test_devices_are_forgotten_beyond_the_bound() -> None:
    source = MqttSource(source_settings(1883, max_devices=3), Metrics())
    for i in range(10):
        sample = ecg_block(f"a/b/{i}", "d", {LEADS[0]: np.zeros(3, np.float32)}, 250.0, sequence=1, start=1.0)
        assert source._is_new(sample, b"")
    assert [bed for bed, _ in source._sequences] == ["a/b/7", "a/b/8", "a/b/9"]


def test_faults_are_logged_at_most_once_a_minute_with_their_count() -> None:
    faults = FaultLog(seconds=60.0, most=2)
    fault = Fault("syntax", "wrong")
    with capture_logs() as logs:
        for now in range(200):
            faults.report(fault, None, float(now))
    assert [entry["more"] for entry in logs] == [0, 59, 59, 59]
    for i in range(10):
        faults.report(Fault(f"r{i}", "wrong"), None, 0.0)
    assert len(faults._last) == 2


def test_a_sender_that_invents_devices_does_not_fill_the_log() -> None:
    faults = FaultLog(seconds=60.0, lines=5)
    with capture_logs() as logs:
        for i in range(1000):
            faults.report(Fault("syntax", "wrong"), Address(f"a/b/{i}", "d"), i / 1000)
        faults.report(Fault("syntax", "wrong"), Address("a/b/x", "d"), 100.0)
    assert len(logs) == 6
    assert logs[-1]["of_others"] == 995


def test_two_devices_of_one_name_do_not_fill_the_log() -> None:
    source = MqttSource(source_settings(1883), Metrics())
    with capture_logs() as logs:
        for i in range(50):
            for at in (1e9, 1.5e9):
                leads = {LEADS[0]: np.zeros(3, np.float32)}
                assert source._is_new(ecg_block("a/b/1", "d", leads, 250.0, sequence=i, start=at + i), b"")
    assert [entry["event"] for entry in logs] == ["mqtt_sequence_restarted"]


# --- settings
