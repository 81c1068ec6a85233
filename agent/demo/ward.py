"""The demo: a ward on this machine. Monitors, broker and receiver are played; the agent is the real one.

The agent runs as in production, a process of its own started by ``deepecg-agent run --config``. What the summary says
comes from its metrics and from what the receivers got, not from the demo's own bookkeeping of what should happen.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from agent.core.ecg import Encounter
from agent.core.errors import DeepECGError
from agent.core.mqtt.decode import TopicTemplate
from agent.core.windows.settings import WindowingSettings
from agent.demo.broker import BrokerAddress, BrokerError, broker, free_port
from agent.demo.receiver import Received, Receiver
from agent.demo.recordings import DemoBed, RecordingsError, demo_beds
from agent.mqtt.link import BrokerSettings, MqttLink
from agent.ops.metrics import Metrics
from agent.simulator.monitors import bed_lookup
from agent.simulator.players import DEVICE, PayloadKind, Signal, Tally, play_hl7, play_mqtt

DIALECTS = ("philips", "ge", "mindray", "capsule", "wcm", "mindray_w01")
PAYLOADS: tuple[PayloadKind, ...] = ("binary", "json", "cbor")
_START_SECONDS = 60.0


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
class _Placed:
    """A recording in a bed, and how its monitor speaks."""

    bed: str
    transport: str
    """``mqtt/binary``, ``hl7/ge``, …"""
    recording: DemoBed

    @property
    def kind(self) -> str:
        return self.transport.partition("/")[2]


async def run(options: Options) -> dict[str, object]:
    """Play the ward until the time is up or SIGINT; the summary.

    Raises:
        DemoError: something that it needs does not start, or the agent ended.
    """
    try:
        return await _run(options)
    except ExceptionGroup as failures:  # what is raised beside running tasks comes in a group
        if (known := failures.subgroup(DemoError)) is None:
            raise
        raise known.exceptions[0] from None


async def _run(options: Options) -> dict[str, object]:
    data = options.data or Path(os.environ.get("ECG_DATA", Path.cwd().parent / "shared" / "data"))
    try:
        placed = _place(demo_beds(data if data.is_dir() else None), options.beds)
    except RecordingsError as error:
        raise DemoError(str(error)) from error
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="deepecg-demo-")))
        try:
            address = await stack.enter_async_context(broker(options.broker, folder))
        except BrokerError as error:
            raise DemoError(str(error)) from error
        receiver = await stack.enter_async_context(Receiver())
        link = await stack.enter_async_context(_link(address, "deepecg-demo-monitors", ()))
        listener = await stack.enter_async_context(
            _link(address, "deepecg-demo-listener", (("ward/v1/+/+/+/alert", 1),))
        )
        await _connected(listener, address)
        hl7_port, page_port = free_port(), options.port or free_port()
        config = folder / "agent.toml"
        config.write_text(_config(folder, placed, address, hl7_port, page_port, receiver.port), encoding="utf-8")
        agent = await stack.enter_async_context(_agent(config, folder))
        url = f"http://127.0.0.1:{page_port}"
        session = await stack.enter_async_context(aiohttp.ClientSession(url))
        await _healthy(session, agent, folder)
        _introduce(placed, address, url)
        began = time.monotonic()
        mqtt_alerts: list[dict[str, object]] = []
        async with asyncio.TaskGroup() as group:
            tally = Tally()
            # On the windows' grid, so that every demo cuts the same windows; the beds are spread over the second.
            stride = WindowingSettings().stride
            begin = (time.time() // stride + 1) * stride
            tasks = [
                group.create_task(_play(item, begin + index / len(placed), link, hl7_port, tally))
                for index, item in enumerate(placed)
            ]
            tasks.append(group.create_task(_show(receiver)))
            tasks.append(group.create_task(_listen(listener, mqtt_alerts)))
            tasks.append(group.create_task(_supervise(agent, stop)))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), options.seconds or None)
            if options.screenshot is not None and agent.returncode is None:
                from agent.demo.screenshot import ScreenshotError, screenshot

                try:
                    await screenshot(url, options.screenshot)
                except ScreenshotError as error:
                    raise DemoError(str(error)) from error
            summary = await _summary(session, agent, folder)
            for task in tasks:
                task.cancel()
        seconds = time.monotonic() - began
        received = list(receiver.alerts)
    return {
        "seconds": round(seconds, 1),
        "broker": address.name,
        "beds": len(placed),
        "beds_by_transport": dict(Counter(item.transport for item in placed)),
        "beds_synthetic": sum(item.recording.synthetic for item in placed),
        "messages_sent": tally.sent,
        "messages_failed": tally.failed + sum(tally.refused.values()),
        **summary,
        "alerts_received": {
            "hl7": len(received),
            "mqtt": len({str(alert.get("message_id")) for alert in mqtt_alerts}),
        },
        "findings_by_bed": _by_bed(placed, received),
    }


def _place(recordings: Sequence[DemoBed], beds: int) -> list[_Placed]:
    """Each recording in its bed: those it is meant for first, then all again, half over MQTT and half over HL7."""
    dialects, payloads = cycle(DIALECTS), cycle(PAYLOADS)
    order = {transport: cycle([r for r in recordings if r.feed == transport]) for transport in ("mqtt", "hl7")}
    placed = []
    for index in range(beds):
        transport = ("mqtt", "hl7")[index % 2]
        recording = next(order[transport])
        kind = next(payloads if transport == "mqtt" else dialects)
        placed.append(_Placed(f"demo/ward/{index + 1:02d}", f"{transport}/{kind}", recording))
    return placed


def _config(
    folder: Path, placed: Sequence[_Placed], address: BrokerAddress, hl7_port: int, page_port: int, receiver_port: int
) -> str:
    """The demo's own configuration: as a hospital would write it."""
    lookup: dict[str, str] = {}
    for item in placed:
        if item.transport.startswith("hl7/"):
            lookup |= bed_lookup(item.kind, item.bed)
    synthetic = [item.bed for item in placed if item.recording.synthetic]
    broker_lines = f"host = {json.dumps(address.host)}\nport = {address.port}"
    return f"""\
[agent]
state_dir = {json.dumps(str(folder))}
log_level = "info"
[sources.mqtt]
{broker_lines}
[sources.hl7]
port = {hl7_port}
max_connections = {len(placed) + 16}
[sources.hl7.beds.lookup]
{chr(10).join(f"{json.dumps(key)} = {json.dumps(bed)}" for key, bed in lookup.items())}
[sinks.hl7]
host = "127.0.0.1"
port = {receiver_port}
[sinks.mqtt]
{broker_lines}
[station]
port = {page_port}
title = "Demonstration ward"
synthetic_beds = {json.dumps(synthetic)}
"""


def _link(address: BrokerAddress, client_id: str, subscriptions: Sequence[tuple[str, int]]) -> MqttLink:
    settings = BrokerSettings(host=address.host, port=address.port, client_id=client_id, status_topic="")
    return MqttLink(settings, Metrics(), "demo", subscriptions)


async def _connected(link: MqttLink, address: BrokerAddress) -> None:
    try:
        await asyncio.wait_for(link.subscribed.wait(), 10)
    except TimeoutError as error:
        at = f"{address.host}:{address.port}"
        raise DemoError(f"the broker at {at} takes no subscription; let anonymous clients use ward/v1/#") from error


@asynccontextmanager
async def _agent(config: Path, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The agent itself, ended by SIGTERM as a service manager does."""
    with (folder / "agent.log").open("wb") as log:
        command = (sys.executable, "-m", "agent.cli", "run", "--config", str(config))
        process = await asyncio.create_subprocess_exec(*command, stderr=log, stdout=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _healthy(session: aiohttp.ClientSession, agent: asyncio.subprocess.Process, folder: Path) -> None:
    """Wait for the agent to say that it is well."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if agent.returncode is not None:
            raise DemoError(f"the agent ended with status {agent.returncode}: {_last_words(folder)}")
        try:
            async with session.get("/healthz") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise DemoError(f"the agent is not healthy after {_START_SECONDS:.0f} s: {_last_words(folder)}")


def _last_words(folder: Path) -> str:
    lines = (folder / "agent.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


async def _supervise(agent: asyncio.subprocess.Process, stop: asyncio.Event) -> None:
    await agent.wait()
    stop.set()


async def _play(item: _Placed, begin: float, link: MqttLink, hl7_port: int, tally: Tally) -> None:
    recording = item.recording
    played = Signal(recording.leads, recording.rate, recording.signal)
    if item.transport.startswith("mqtt/"):
        topic = TopicTemplate().topic(item.bed, DEVICE)
        kind = next(p for p in PAYLOADS if p == item.kind)
        await play_mqtt(link, topic, item.bed, played, kind, begin, tally)
    else:
        patient = Encounter(patient_ids=(f"DEMO{item.bed[-2:]}^^^DEMO^MR",))
        try:
            await play_hl7("127.0.0.1", hl7_port, item.kind, item.bed, played, patient, begin, tally)
        except OSError:  # the agent is gone: `_supervise` ends the demo and says so
            tally.failed += 1


def _introduce(placed: Sequence[_Placed], address: BrokerAddress, url: str) -> None:
    print("DeepECG Bedside demo. Advisory only: not a medical device, never the primary alarm.")
    print(f"MQTT broker: {address.name} at {address.host}:{address.port}")
    for item in placed[:16]:
        r = item.recording
        kind = "synthetic" if r.synthetic else "recorded"
        print(f"  {item.bed:<16} {item.transport:<16} {kind:<10} {r.origin:<24} {r.title}")
    if len(placed) > 16:
        print(f"  … and {len(placed) - 16} more beds")
    print(f"Look at {url} . Alerts as the receivers get them:", flush=True)


async def _show(receiver: Receiver) -> None:
    while True:
        alert = await receiver.next()
        print(f"  HL7  {alert}", flush=True)


async def _listen(link: MqttLink, alerts: list[dict[str, object]]) -> None:
    async for message in link.messages():
        alerts.append(json.loads(message.payload))
        link.ack(message)


async def _summary(
    session: aiohttp.ClientSession, agent: asyncio.subprocess.Process, folder: Path
) -> dict[str, object]:
    """What the agent's own metrics say."""
    if agent.returncode is not None:
        raise DemoError(f"the agent ended with status {agent.returncode}: {_last_words(folder)}")
    async with session.get("/metrics") as answer:
        text = await answer.text()
    async with session.get("/api/state") as answer:
        state = await answer.json()
    counts: Counter[str] = Counter()
    alerts: dict[str, dict[str, int]] = {}
    drops: dict[str, int] = {}
    gaps: dict[str, int] = {}
    delivered: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.value or sample.name.endswith("_created"):
                continue
            value = int(sample.value)
            match sample.name:
                case "deepecg_alerts_total":
                    alerts.setdefault(sample.labels["label"], {})[sample.labels["phase"]] = value
                case "deepecg_windows_dropped_total":
                    drops[sample.labels["reason"]] = value
                case "deepecg_gaps_total":
                    gaps[sample.labels["reason"]] = value
                case "deepecg_delivered_total":
                    delivered[sample.labels["sink"]] = value
                case "process_resident_memory_bytes":
                    counts["memory_mb"] = value >> 20
                case "process_cpu_seconds_total":
                    counts["cpu_seconds"] = value
                case "deepecg_messages_total" | "deepecg_windows_total" | "deepecg_faults_total":
                    counts[sample.name.removeprefix("deepecg_").removesuffix("_total")] += value
    return {
        "model": state["model"],
        "messages": counts["messages"],
        "faults": counts["faults"],
        "windows": counts["windows"],
        "windows_dropped": drops,
        "gaps": gaps,
        "alerts": alerts,
        "alerts_acknowledged": delivered,
        "latency_prediction_seconds": state["latency"]["prediction"],
        "latency_alert_seconds": state["latency"]["alert"],
        "agent_memory_mb": counts["memory_mb"],
        "agent_cpu_seconds": counts["cpu_seconds"],
    }


def _by_bed(placed: Sequence[_Placed], received: Sequence[Received]) -> dict[str, object]:
    """For every bed with an alert or a known rhythm: what it plays, and what was said of it."""
    said: dict[str, list[str]] = {}
    for alert in received:
        if alert.phase == "start":
            said.setdefault(alert.bed, []).append(alert.label)
    return {
        item.bed: {
            "transport": item.transport,
            "origin": item.recording.origin,
            "expected": item.recording.expected,
            "alerts": said.get(item.bed, []),
        }
        for item in placed[:64]
        if item.bed in said or item.recording.expected
    }
