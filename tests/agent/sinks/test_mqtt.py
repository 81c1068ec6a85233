"""The sink against a real mosquitto: every committed alert arrives, at least once, whatever the broker does."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.core.ecg import Alert, Encounter, Phase, Priority
from agent.mqtt.link import MqttLink
from agent.mqtt.settings import BrokerSettings
from agent.ops.metrics import Metrics, totals
from agent.sinks.mqtt import ADVISORY, MqttSink, message_from_alert
from agent.sinks.outbox import Outbox
from agent.sinks.settings import MqttSinkSettings

START = Alert(
    alert_id="a1",
    message_id="a1-1",
    bed="north/icu/7",
    device="monitor",
    label="Afib",
    code=199736,
    ref_id="MDC_EVT_ATR_FIB",
    text="Atrial fibrillation (advisory)",
    priority=Priority.MEDIUM,
    phase=Phase.START,
    active=True,
    opened=1769860800.0,
    time=1769860800.0,
    created=1769860801.5,
    probability=0.93456,
    threshold=0.8,
    model="sl/1",
    received=12.25,
    source_code=131328,
    encounter=Encounter(
        patient_ids=("4711^^^NORTH^MR",),
        family_name="Canary",
        given_name="C",
        birth_date="19500101",
        location="ICU^1^7",
    ),
)
END = dataclasses.replace(
    START, message_id="a1-2", phase=Phase.END, active=False, time=1769860900.0, reason="recovered", probability=None
)


def alert(n: int, bed: str = "north/icu/7") -> Alert:
    return dataclasses.replace(START, alert_id=f"a{n}", message_id=f"a{n}-1", bed=bed)


def sink_settings(port: int, **more: Any) -> MqttSinkSettings:
    more = {"host": "127.0.0.1", "reconnect_min": 0.05, "reconnect_max": 0.2} | more
    return MqttSinkSettings(port=port, **more)


async def within(seconds: float, what: Any) -> Any:
    async with asyncio.timeout(seconds):
        return await what


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def settled(outbox: Outbox) -> None:
    async with asyncio.timeout(10):
        while await outbox.undelivered("mqtt"):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(port: int, outbox: Outbox, metrics: Metrics, **more: Any) -> AsyncIterator[MqttSink]:
    async with MqttSink(sink_settings(port, **more), outbox, metrics) as sink, asyncio.TaskGroup() as tasks:
        task = tasks.create_task(sink.run())
        yield sink
        task.cancel()


@asynccontextmanager
async def receiving(port: int) -> AsyncIterator[MqttLink]:
    mine = BrokerSettings(host="127.0.0.1", port=port, client_id="receiver", reconnect_min=0.05, reconnect_max=0.2)
    async with MqttLink(mine, Metrics(), "receiver", [("ward/v1/+/+/+/alert", 1)]) as link:
        await within(5, link.subscribed.wait())
        yield link


async def take(link: MqttLink) -> tuple[str, dict[str, Any]]:
    message = await within(10, link.get())
    link.ack(message)
    return message.topic, json.loads(message.payload)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_the_life_of_an_alert(mosquitto: int, tmp_path: Path, protocol: str) -> None:
    metrics = Metrics()
    async with receiving(mosquitto) as receiver, Outbox(tmp_path / "o.sqlite", ("mqtt",)) as outbox:
        async with running(mosquitto, outbox, metrics, protocol=protocol):
            await outbox.commit((START, END, alert(2, "north/icu/8")))
            got = [await take(receiver) for _ in range(3)]
            await settled(outbox)
    assert {topic for topic, _ in got} == {"ward/v1/north/icu/7/alert", "ward/v1/north/icu/8/alert"}
    assert [body["phase"] for _, body in got if body["alert_id"] == "a1"] == ["start", "end"]
    assert totals(metrics.delivered) == {"mqtt": 3}


def test_the_message_as_documented() -> None:
    assert json.loads(message_from_alert(START)) == {
        "schema": "deepecg-alert/1",
        "alert_id": "a1",
        "message_id": "a1-1",
        "bed": "north/icu/7",
        "device": "monitor",
        "label": "Afib",
        "code": 199736,
        "ref_id": "MDC_EVT_ATR_FIB",
        "text": "Atrial fibrillation (advisory)",
        "priority": "PM",
        "phase": "start",
        "state": "active",
        "reason": "",
        "opened": "2026-01-31T12:00:00.000Z",
        "time": "2026-01-31T12:00:00.000Z",
        "created": "2026-01-31T12:00:01.500Z",
        "probability": 0.9346,
        "threshold": 0.8,
        "model": "sl/1",
        "source_code": 131328,
        "patient": {
            "ids": ["4711^^^NORTH^MR"],
            "family_name": "Canary",
            "given_name": "C",
            "visit": "",
            "location": "ICU^1^7",
        },
        "advisory": ADVISORY,
    }
    end = json.loads(message_from_alert(END))
    assert (end["state"], end["reason"], end["probability"]) == ("inactive", "recovered", None)


def test_without_the_patient() -> None:
    assert json.loads(message_from_alert(START, patient=False))["patient"] is None
    assert b"Canary" not in message_from_alert(START, patient=False)
    assert json.loads(message_from_alert(dataclasses.replace(START, encounter=None)))["patient"] is None


async def test_content_type_and_no_expiry(mosquitto: int, tmp_path: Path) -> None:
    command = [
        "mosquitto_sub",
        "-V",
        "5",
        "-p",
        str(mosquitto),
        "-t",
        "ward/#",
        "-C",
        "1",
        "-W",
        "10",
        "-F",
        "%C|%E|%q|%r",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    said = asyncio.create_task(asyncio.to_thread(process.communicate))
    async with Outbox(tmp_path / "o.sqlite", ("mqtt",)) as outbox:
        async with running(mosquitto, outbox, Metrics(), status_topic=""):
            for number in count():  # until mosquitto_sub has subscribed and got one
                await outbox.commit((alert(number),))
                await settled(outbox)
                if said.done():
                    break
    content_type, expiry, _, retain = (await said)[0].decode().strip().split("|")
    assert (content_type, expiry, retain) == ("application/json", "", "0")


async def test_what_was_committed_while_the_broker_was_away(
    start_mosquitto: Callable[..., Any], tmp_path: Path
) -> None:
    broker = start_mosquitto()
    metrics = Metrics()
    async with Outbox(tmp_path / "o.sqlite", ("mqtt",)) as outbox, running(broker.port, outbox, metrics) as sink:
        await within(5, sink.connected.wait())
        broker.stop(signal.SIGKILL)
        await until(lambda: not sink.connected.is_set())
        await outbox.commit(tuple(alert(i) for i in range(20)))
        assert await outbox.undelivered("mqtt") == 20
        broker.start()
        async with receiving(broker.port) as receiver:
            await settled(outbox)
            await outbox.commit((alert(20),))  # the receiver may have come after some of them, but before this one
            got = [(await take(receiver))[1]["alert_id"]]
            while got[-1] != "a20":
                got.append((await take(receiver))[1]["alert_id"])
    assert got == [f"a{i}" for i in range(21 - len(got), 21)]
    assert totals(metrics.delivered) == {"mqtt": 21}


async def test_one_refused_bed_does_not_hold_up_the_others(start_mosquitto: Callable[..., Any], tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite ward/v1/north/icu/7/alert\ntopic read ward/#\n")
    broker = start_mosquitto(f"acl_file {acl}")
    metrics = Metrics()
    with capture_logs() as logs:
        async with receiving(broker.port) as receiver, Outbox(tmp_path / "o.sqlite", ("mqtt",)) as outbox:
            async with running(broker.port, outbox, metrics, status_topic=""):
                await outbox.commit((alert(1, "north/icu/8"), alert(2), alert(3, "north/icu/8"), alert(4)))
                assert [(await take(receiver))[1]["alert_id"] for _ in range(2)] == ["a2", "a4"]
                await until(lambda: totals(metrics.delivered) == {"mqtt": 2})
                assert await outbox.undelivered("mqtt") == 2
    assert totals(metrics.delivery_failures) == {"mqtt/refused": 2}
    assert "Canary" not in repr(logs)
    assert "4711" not in repr(logs)


async def test_a_refused_alert_is_tried_again(start_mosquitto: Callable[..., Any], tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read ward/#\n")
    broker = start_mosquitto(f"acl_file {acl}")
    metrics = Metrics()
    async with Outbox(tmp_path / "o.sqlite", ("mqtt",)) as outbox:
        async with running(broker.port, outbox, metrics, status_topic="", retry_refused=0.2):
            await outbox.commit((START,))
            await until(lambda: totals(metrics.delivery_failures).get("mqtt/refused", 0) >= 1)
            assert await outbox.undelivered("mqtt") == 1
            acl.write_text("topic readwrite ward/#\n")
            broker.send(signal.SIGHUP)
            await settled(outbox)


async def test_nobody_listens_is_said(mosquitto: int, tmp_path: Path) -> None:
    metrics = Metrics()
    async with Outbox(tmp_path / "o.sqlite", ("mqtt",)) as outbox, running(mosquitto, outbox, metrics):
        await outbox.commit((START,))
        await settled(outbox)
    assert totals(metrics.delivery_failures) == {"mqtt/no_subscriber": 1}


async def test_an_alert_of_no_bed_is_refused_and_kept(mosquitto: int, tmp_path: Path) -> None:
    metrics = Metrics()
    async with receiving(mosquitto) as receiver, Outbox(tmp_path / "o.sqlite", ("mqtt",)) as outbox:
        async with running(mosquitto, outbox, metrics):
            await outbox.commit((alert(1, "nowhere"), alert(2)))
            assert (await take(receiver))[1]["alert_id"] == "a2"
    assert totals(metrics.delivery_failures)["mqtt/topic"] >= 1


CHILD = """
    import asyncio, sys
    from pathlib import Path
    from agent.ops.metrics import Metrics
    from agent.sinks.mqtt import MqttSink
    from agent.sinks.settings import MqttSinkSettings
    from agent.sinks.outbox import Outbox

    async def main():
        settings = MqttSinkSettings(host="127.0.0.1", port=int(sys.argv[1]), reconnect_min=0.05)
        async with Outbox(Path(sys.argv[2]), ("mqtt",)) as outbox, MqttSink(settings, outbox, Metrics()) as sink:
            await sink.run()

    asyncio.run(main())
"""


async def test_kill_9_at_any_point_loses_no_alert(mosquitto: int, tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    async with Outbox(path, ("mqtt",)) as outbox:
        await outbox.commit(tuple(alert(i) for i in range(60)))
    seen: set[str] = set()
    async with receiving(mosquitto) as receiver:
        for upto in (5, 25, 60):
            child = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(CHILD), str(mosquitto), str(path)], stderr=subprocess.DEVNULL
            )
            try:
                while len(seen) < upto:
                    seen.add((await take(receiver))[1]["alert_id"])
            finally:
                child.kill()
                child.wait()
    assert seen == {f"a{i}" for i in range(60)}
