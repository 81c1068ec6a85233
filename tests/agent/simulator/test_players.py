"""The simulated monitors against the real sources: what is played is what the line gets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import numpy as np
import pytest

from agent.core.ecg import Encounter, Event, Lead, Samples
from agent.mqtt.link import MqttLink
from agent.mqtt.settings import BrokerSettings
from agent.ops.metrics import Metrics
from agent.simulator.monitors import CADENCE, bed_lookup
from agent.simulator.players import Answer, PayloadKind, Signal, Tally, play_hl7, play_mqtt
from agent.sources.hl7.server import HL7Source
from agent.sources.hl7.settings import HL7SourceSettings
from agent.sources.mqtt import MqttSource
from agent.sources.mqtt_settings import MqttSourceSettings

BED = "demo/ward/01"
RATE = 250.0


@pytest.fixture
def signal() -> Signal:
    values = np.random.default_rng(0).normal(0, 0.4, (2, 1750)).astype(np.float32)
    return Signal((Lead.II, Lead.V1), RATE, values)


def test_a_signal_begins_again(signal: Signal) -> None:
    np.testing.assert_array_equal(signal.cut(1700, 100)[:, 50:], signal.values[:, :50])


@pytest.mark.parametrize("kind", ["binary", "cbor", "json"])
async def test_mqtt(mosquitto: int, signal: Signal, kind: PayloadKind) -> None:
    metrics, queue, tally = Metrics(), asyncio.Queue[Event](), Tally()
    settings = MqttSourceSettings(host="127.0.0.1", port=mosquitto, client_id="t-source")
    sender = BrokerSettings(host="127.0.0.1", port=mosquitto, client_id="t-sender", status_topic="")
    async with MqttSource(settings, metrics) as source, MqttLink(sender, Metrics(), "t") as link:
        await source.subscribed.wait()
        await link.connected.wait()
        topic = f"ward/v1/{BED}/ecg/monitor"
        tasks = [
            asyncio.create_task(source.run(queue)),
            asyncio.create_task(_count(play_mqtt(link, topic, BED, signal, kind, time.time() - 2.5), tally)),
        ]
        blocks = [await asyncio.wait_for(queue.get(), 10) for _ in range(2)]
        await _end(tasks)
    _is_what_was_played(blocks, signal, "mqtt")
    assert tally.sent >= 1
    assert tally.failed == 0


@pytest.mark.parametrize("dialect", sorted(CADENCE))
async def test_hl7(signal: Signal, dialect: str) -> None:
    metrics, queue, tally = Metrics(), asyncio.Queue[Event](), Tally()
    settings = HL7SourceSettings.model_validate(
        {
            "port": 0,
            "beds": {"lookup": bed_lookup(dialect, BED), "site": "demo", "unit": "ward"},
            "ecg_scale": {dialect: 0.001} if dialect.startswith("mindray") else {},
        }
    )
    async with HL7Source(settings, metrics) as source:
        begin = time.time() - CADENCE[dialect][0] - CADENCE[dialect][1] - 0.5
        patient = Encounter(patient_ids=("P1",))
        tasks = [
            asyncio.create_task(source.run(queue)),
            asyncio.create_task(
                _count(play_hl7("127.0.0.1", source.port, dialect, BED, signal, patient, begin), tally)
            ),
        ]
        first = await asyncio.wait_for(queue.get(), 10)
        async with asyncio.timeout(10):
            while not tally.sent:
                await asyncio.sleep(0.001)
        await _end(tasks[::-1])  # the player first, or it would miss an answer
    assert isinstance(first, Samples)
    assert first.bed == BED
    assert first.transport == "hl7"
    assert tally.refused == {}


async def test_hl7_tells_what_the_agent_says_of_a_bed_that_is_not_granted(signal: Signal) -> None:
    settings = HL7SourceSettings.model_validate(
        {"port": 0, "grants": [{"address": "127.0.0.0/8", "beds": ["other/*"]}]},
    )
    async with HL7Source(settings, Metrics()) as source:
        task = asyncio.create_task(source.run(asyncio.Queue[Event]()))
        answers = play_hl7("127.0.0.1", source.port, "philips", BED, signal, None, time.time() - 2)
        answer = await anext(answers)
        await answers.aclose()
        await _end([task])
    assert not answer.accepted
    assert (answer.code, answer.text) == ("CR", "207 this sender may not speak for this bed; add it to `grants`")


async def test_mqtt_tells_that_nobody_listens(mosquitto: int, signal: Signal) -> None:
    sender = BrokerSettings(host="127.0.0.1", port=mosquitto, client_id="t-sender", status_topic="")
    async with MqttLink(sender, Metrics(), "t") as link:
        await link.connected.wait()
        answers = play_mqtt(link, f"ward/v1/{BED}/ecg/monitor", BED, signal, "binary", time.time() - 2)
        answer = await anext(answers)
        await answers.aclose()
    assert not answer.accepted
    assert answer.code == "no_subscriber"


async def test_hl7_ends_with_the_connection(signal: Signal) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        tally = Tally()
        await _count(play_hl7("127.0.0.1", port, "philips", BED, signal, None, time.time() - 2), tally)
    assert (tally.sent, tally.failed) == (1, 1)


def _is_what_was_played(blocks: list[Event], signal: Signal, transport: str) -> None:
    for number, block in enumerate(blocks):
        assert isinstance(block, Samples)
        assert block.transport == transport
        assert block.sequence == number
        assert [channel.lead for channel in block.channels] == list(signal.leads)
        np.testing.assert_allclose(np.stack(block.values), signal.cut(250 * number, 250), atol=6e-4)


async def _count(answers: AsyncIterator[Answer], tally: Tally) -> None:
    async for answer in answers:
        tally.add(answer)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
