"""One connection by itself: what each answer to CONNECT, or none, becomes. The rest is tested through the link."""

from __future__ import annotations

import asyncio

import pytest
from paho.mqtt.client import MQTTv5

from agent.mqtt.connection import Connection
from agent.mqtt.errors import (
    BrokerRefusesError,
    ConnectionLostError,
    HungUpError,
    MqttError,
    NoAnswerError,
    ProtocolRefusedError,
)
from agent.mqtt.inbox import Inbox
from agent.mqtt.settings import BrokerSettings
from agent.ops.metrics import Metrics


async def answer_to(said: bytes, *, stay: bool = False) -> MqttError | bool:
    """The error of `Connection.answer` where a broker answers so, and then hangs up unless it is to stay."""
    gone = asyncio.Event()

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(said)
        if stay:
            await gone.wait()
        writer.close()

    async with await asyncio.start_server(broker, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = BrokerSettings(host="127.0.0.1", port=port, client_id="a", connect_timeout=0.3 if stay else 5.0)
        connection = Connection(1, MQTTv5, settings, Inbox(1, 1, Metrics(), "mqtt"), clean=True)
        try:
            await connection.open(None, None, None)
            up = await connection.answer()
        except MqttError as error:
            return error
        else:
            return up.session_present
        finally:
            connection.drop("the test is over")
            gone.set()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("20020001", ProtocolRefusedError),  # of MQTT 3.1.1: return code 1
        ("2003008400", ProtocolRefusedError),  # of MQTT 5: unsupported protocol version
        ("2003008700", BrokerRefusesError),  # not authorised
        ("2003009700", BrokerRefusesError),  # quota exceeded
        ("", HungUpError),
        ("2003", HungUpError),  # in the middle of its answer
        ("ff" * 8, ConnectionLostError),  # this is no MQTT
    ],
)
async def test_what_a_broker_says_that_does_not_take_us(said: str, error: type[MqttError]) -> None:
    assert type(await answer_to(bytes.fromhex(said))) is error


async def test_a_broker_that_takes_us() -> None:
    assert await answer_to(bytes.fromhex("2003000000"), stay=True) is False
    assert await answer_to(bytes.fromhex("2003010000"), stay=True) is True


async def test_silence_is_no_refusal() -> None:
    error = await answer_to(b"", stay=True)
    assert type(error) is NoAnswerError
    assert "did not answer within 0.3 s" in str(error)
