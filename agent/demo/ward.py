"""The demo: a ward on this machine. Monitors, broker and receiver are played; the agent is the real one.

What the summary says comes from the agent's metrics and from what the receivers got, not from the demo's own
bookkeeping of what should happen.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from agent.core.ecg import Encounter
from agent.core.errors import DeepECGError
from agent.core.mqtt.topic import TopicTemplate
from agent.core.windows.settings import WindowingSettings
from agent.demo import summary
from agent.demo.broker import BrokerAddress, BrokerError, broker, free_port
from agent.demo.placement import PAYLOADS, Placed, Ports, configuration, place
from agent.demo.process import AgentError, AgentProcess
from agent.demo.receiver import Receiver
from agent.demo.recordings import RecordingsError, demo_beds
from agent.mqtt.link import MqttLink
from agent.mqtt.settings import BrokerSettings
from agent.ops.metrics import Metrics
from agent.simulator.players import DEVICE, Signal, Tally, play_hl7, play_mqtt

_BROKER_SECONDS = 10.0
"""For our own broker to take a subscription."""
_EXTERNAL_SECONDS = 40.0
"""For one that was named: time for one that does not answer at first, or is spoken to in 3.1.1 at the second try."""


class DemoError(DeepECGError):
    """The demo cannot run; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    seconds: float
    """0: until interrupted."""
    beds: int
    broker: str
    data: Path | None
    port: int
    screenshot: Path | None = None


@dataclass(frozen=True, slots=True)
class _Ward:
    """Everything that runs."""

    placed: list[Placed]
    address: BrokerAddress
    ports: Ports
    receiver: Receiver
    link: MqttLink
    """Of the monitors that publish."""
    listener: MqttLink
    """Of the one who subscribes to the alerts."""
    agent: AgentProcess
    session: aiohttp.ClientSession
    tally: Tally = field(default_factory=Tally)
    mqtt_alerts: list[dict[str, object]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.page}"


async def run(options: Options) -> dict[str, object]:
    """Play the ward until the time is up or SIGINT; the summary.

    Raises:
        DemoError: something that it needs does not start, or the agent ended.
    """
    try:
        return await _run(options)
    except (AgentError, BrokerError, RecordingsError) as error:
        raise DemoError(str(error)) from error
    except ExceptionGroup as failures:  # what is raised beside running tasks comes in a group
        if (known := failures.subgroup(DeepECGError)) is None:
            raise
        raise DemoError(str(known.exceptions[0])) from None


async def _run(options: Options) -> dict[str, object]:
    data = options.data or Path(os.environ.get("ECG_DATA", Path.cwd().parent / "shared" / "data"))
    placed = place(demo_beds(data if data.is_dir() else None), options.beds)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        ward = await _open(stack, options, placed)
        _introduce(ward)
        began = time.monotonic()
        said = await _play_all(ward, options, stop)
        seconds = time.monotonic() - began
        received = list(ward.receiver.alerts)
    return {
        "seconds": round(seconds, 1),
        "broker": ward.address.name,
        "beds": len(placed),
        "beds_by_transport": dict(Counter(item.transport for item in placed)),
        "beds_synthetic": sum(item.recording.synthetic for item in placed),
        "messages_sent": ward.tally.sent,
        "messages_failed": ward.tally.failed + sum(ward.tally.refused.values()),
        **said,
        "alerts_received": {
            "hl7": len(received),
            "mqtt": len({str(alert.get("message_id")) for alert in ward.mqtt_alerts}),
        },
        "findings_by_bed": summary.by_bed(placed, received),
    }


async def _open(stack: AsyncExitStack, options: Options, placed: list[Placed]) -> _Ward:
    """Start broker, receiver, links and agent, in this order, and leave their ends to ``stack``."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="deepecg-demo-")))
    address = await stack.enter_async_context(broker(options.broker, folder))
    receiver = await stack.enter_async_context(Receiver())
    link = await stack.enter_async_context(_link(address, "deepecg-demo-monitors", ()))
    listener = await stack.enter_async_context(_link(address, "deepecg-demo-listener", (("ward/v1/+/+/+/alert", 1),)))
    await _subscribed(listener, address)
    ports = Ports(free_port(), options.port or free_port(), receiver.port)
    config = folder / "agent.toml"
    config.write_text(configuration(folder, placed, address, ports), encoding="utf-8")
    agent = await stack.enter_async_context(AgentProcess(config, folder / "agent.log"))
    session = await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{ports.page}"))
    await agent.healthy(session)
    return _Ward(placed, address, ports, receiver, link, listener, agent, session)


async def _play_all(ward: _Ward, options: Options, stop: asyncio.Event) -> dict[str, object]:
    """Play every bed until ``stop``, the end of the time or of the agent; the agent's own summary of it."""
    async with asyncio.TaskGroup() as group:
        # On the windows' grid, so that every demo cuts the same windows; the beds are spread over the second.
        stride = WindowingSettings().stride
        begin = (time.time() // stride + 1) * stride
        tasks = [
            group.create_task(_play(ward, item, begin + index / len(ward.placed)))
            for index, item in enumerate(ward.placed)
        ]
        tasks.append(group.create_task(_show(ward.receiver)))
        tasks.append(group.create_task(_listen(ward.listener, ward.mqtt_alerts)))
        tasks.append(group.create_task(_supervise(ward.agent, stop)))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), options.seconds or None)
        ward.agent.check()
        if options.screenshot is not None:
            from agent.demo.screenshot import screenshot

            await screenshot(ward.url, options.screenshot)
        said = await summary.of_agent(ward.session)
        for task in tasks:
            task.cancel()
    return said


def _link(address: BrokerAddress, client_id: str, subscriptions: Sequence[tuple[str, int]]) -> MqttLink:
    settings = BrokerSettings(
        host=address.host, port=address.port, client_id=client_id, status_topic="", protocol=address.protocol
    )
    return MqttLink(settings, Metrics(), "demo", subscriptions)


async def _subscribed(link: MqttLink, address: BrokerAddress) -> None:
    try:
        await asyncio.wait_for(
            link.subscribed.wait(), _EXTERNAL_SECONDS if address.name == "external" else _BROKER_SECONDS
        )
    except TimeoutError as error:
        at = f"{address.host}:{address.port}"
        if not link.connected.is_set():
            raise DemoError(f"the broker at {at} does not take our clients; the warnings above say why") from error
        raise DemoError(f"the broker at {at} takes no subscription; let anonymous clients use ward/v1/#") from error


async def _supervise(agent: AgentProcess, stop: asyncio.Event) -> None:
    await agent.ended()
    stop.set()


async def _play(ward: _Ward, item: Placed, begin: float) -> None:
    recording, tally = item.recording, ward.tally
    played = Signal(recording.leads, recording.rate, recording.signal)
    if item.transport.startswith("mqtt/"):
        topic = TopicTemplate().topic(item.bed, DEVICE)
        kind = next(p for p in PAYLOADS if p == item.kind)
        async for answer in play_mqtt(ward.link, topic, item.bed, played, kind, begin):
            tally.add(answer)
    else:
        patient = Encounter(patient_ids=(f"DEMO{item.bed[-2:]}^^^DEMO^MR",))
        try:
            async for answer in play_hl7("127.0.0.1", ward.ports.hl7, item.kind, item.bed, played, patient, begin):
                tally.add(answer)
        except OSError:  # the agent is gone: `_supervise` ends the demo and says so
            tally.failed += 1


def _introduce(ward: _Ward) -> None:
    print("DeepECG Bedside demo. Advisory only: not a medical device, never the primary alarm.")
    print(f"MQTT broker: {ward.address.name} at {ward.address.host}:{ward.address.port}")
    for item in ward.placed[:16]:
        r = item.recording
        kind = "synthetic" if r.synthetic else "recorded"
        print(f"  {item.bed:<16} {item.transport:<16} {kind:<10} {r.origin:<24} {r.title}")
    if len(ward.placed) > 16:
        print(f"  … and {len(ward.placed) - 16} more beds")
    print(f"Look at {ward.url} . Alerts as the receivers get them:", flush=True)


async def _show(receiver: Receiver) -> None:
    while True:
        print(f"  HL7  {await receiver.next()}", flush=True)


async def _listen(link: MqttLink, alerts: list[dict[str, object]]) -> None:
    async for message in link.messages():
        alert = json.loads(message.payload)
        alerts.append(alert)
        link.ack(message)
        when = f"{alert['time'][11:19]}Z"
        print(
            f"  MQTT     {alert['priority']} {when} {alert['bed']:<16} {alert['phase']:<14} {alert['text']}", flush=True
        )
