"""Who lies where, and that the configuration is one that the agent takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import load
from agent.demo.broker import BrokerAddress
from agent.demo.placement import DIALECTS, PAYLOADS, Placed, Ports, configuration, place
from agent.demo.recordings import demo_beds


@pytest.fixture(scope="module")
def placed() -> list[Placed]:
    return place(demo_beds(None), 20)


def test_half_over_each_transport_and_each_way_to_speak(placed: list[Placed]) -> None:
    assert [item.bed for item in placed[:3]] == ["demo/ward/01", "demo/ward/02", "demo/ward/03"]
    assert [item.transport.partition("/")[0] for item in placed] == ["mqtt", "hl7"] * 10
    assert {item.kind for item in placed} == {*DIALECTS, *PAYLOADS}
    assert all(item.recording.feed == item.transport.partition("/")[0] for item in placed)
    assert len({item.bed for item in placed}) == 20


@pytest.mark.parametrize("protocol", ["auto", "3.1.1"])
def test_the_agent_takes_the_configuration(placed: list[Placed], tmp_path: Path, protocol: str) -> None:
    address = BrokerAddress("broker.example", 1884, "external", "3.1.1" if protocol == "3.1.1" else "auto")
    file = tmp_path / "agent.toml"
    file.write_text(configuration(tmp_path, placed, address, Ports(2575, 8080, 2576)), encoding="utf-8")
    config = load(file)
    source, sink = config.sources.mqtt, config.sinks.mqtt
    assert source is not None and sink is not None
    for client in (source, sink):
        assert (client.host, client.port, client.protocol) == ("broker.example", 1884, protocol)
    hl7, receiver, station = config.sources.hl7, config.sinks.hl7, config.station
    assert hl7 is not None and receiver is not None and station is not None
    assert (hl7.port, receiver.port, station.port) == (2575, 2576, 8080)
    named = set(hl7.beds.lookup.values())  # of the dialects whose messages do not name the bed as we do
    assert named
    assert named < {item.bed for item in placed if item.transport.startswith("hl7/")}
    assert set(station.synthetic_beds) == {item.bed for item in placed if item.recording.synthetic}
