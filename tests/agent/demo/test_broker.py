"""The demo's broker: mosquitto, amqtt where there is none, or the one that was named."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.demo import broker as module
from agent.demo.broker import BrokerError, broker, free_port, listening


async def test_mosquitto_where_it_is_installed(tmp_path: Path) -> None:
    async with broker("", tmp_path) as address:
        assert address.name == "mosquitto"
        assert await listening(address.host, address.port, 1)
    assert not await listening(address.host, address.port, 0.2)


async def test_amqtt_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda *_args, **_kwargs: None)
    async with broker("", tmp_path) as address:
        assert address.name == "amqtt (MQTT 3.1.1 only)"
        assert await listening(address.host, address.port, 1)


async def test_the_named_one(tmp_path: Path, mosquitto: int) -> None:
    async with broker(f"127.0.0.1:{mosquitto}", tmp_path) as address:
        assert (address.port, address.name) == (mosquitto, "external")


@pytest.mark.parametrize("address", ["nowhere", "host:", ":1883", "host:mqtt"])
async def test_an_address_that_is_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1883"):
        async with broker(address, tmp_path):
            pass


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="no broker answers"):
        async with broker(f"127.0.0.1:{free_port()}", tmp_path):
            pass
