"""Which recording plays in which bed, how its monitor speaks, and the configuration that fits them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from agent.demo.broker import BrokerAddress
from agent.demo.recordings import DemoBed
from agent.simulator.monitors import bed_lookup
from agent.simulator.players import PayloadKind

DIALECTS = ("philips", "ge", "mindray", "capsule", "wcm", "mindray_w01")
PAYLOADS: tuple[PayloadKind, ...] = ("binary", "json", "cbor")


@dataclass(frozen=True, slots=True)
class Placed:
    """A recording in a bed, and how its monitor speaks."""

    bed: str
    transport: str
    """``mqtt/binary``, ``hl7/ge``, …"""
    recording: DemoBed

    @property
    def kind(self) -> str:
        """The payload or the dialect: ``binary``, ``ge``, …"""
        return self.transport.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the agent and the receiver of its alerts listen, on this machine."""

    hl7: int
    page: int
    receiver: int


def place(recordings: Sequence[DemoBed], beds: int) -> list[Placed]:
    """Each recording in its bed: those it is meant for first, then all again, half over MQTT and half over HL7."""
    dialects, payloads = cycle(DIALECTS), cycle(PAYLOADS)
    order = {transport: cycle([r for r in recordings if r.feed == transport]) for transport in ("mqtt", "hl7")}
    placed = []
    for index in range(beds):
        transport = ("mqtt", "hl7")[index % 2]
        recording = next(order[transport])
        kind = next(payloads if transport == "mqtt" else dialects)
        placed.append(Placed(f"demo/ward/{index + 1:02d}", f"{transport}/{kind}", recording))
    return placed


def configuration(folder: Path, placed: Sequence[Placed], broker: BrokerAddress, ports: Ports) -> str:
    """The demo's own configuration file: as a hospital would write it."""
    lookup: dict[str, str] = {}
    for item in placed:
        if item.transport.startswith("hl7/"):
            lookup |= bed_lookup(item.kind, item.bed)
    synthetic = [item.bed for item in placed if item.recording.synthetic]
    broker_lines = f"host = {json.dumps(broker.host)}\nport = {broker.port}\nprotocol = {json.dumps(broker.protocol)}"
    return f"""\
[agent]
state_dir = {json.dumps(str(folder))}
log_level = "info"
[sources.mqtt]
{broker_lines}
[sources.hl7]
port = {ports.hl7}
max_connections = {len(placed) + 16}
[sources.hl7.beds.lookup]
{chr(10).join(f"{json.dumps(key)} = {json.dumps(bed)}" for key, bed in lookup.items())}
[sinks.hl7]
host = "127.0.0.1"
port = {ports.receiver}
[sinks.mqtt]
{broker_lines}
[station]
port = {ports.page}
title = "Demonstration ward"
synthetic_beds = {json.dumps(synthetic)}
"""
