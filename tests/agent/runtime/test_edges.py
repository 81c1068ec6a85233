"""Page, feeds and receivers as they are configured; a port that is taken is one sentence. More in test_daemon.py."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agent.config import Config
from agent.ops.metrics import Metrics
from agent.runtime import edges
from agent.runtime.build import StartError
from agent.sinks.hl7 import Hl7Sink
from agent.sinks.mqtt import MqttSink
from agent.sinks.outbox import Outbox
from agent.sources.hl7.server import HL7Source
from agent.sources.mqtt import MqttSource


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


async def test_what_is_not_configured_is_not_there(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        assert await edges.open_sources(stack, Config(), Metrics()) == []
        assert await edges.open_sinks(stack, Config(), Metrics(), Outbox(tmp_path / "o", ())) == []


async def test_each_table_gives_its_feed_or_receiver(tmp_path: Path, taken: int) -> None:
    table = {"host": "127.0.0.1", "port": taken}
    config = Config.model_validate(
        {"sources": {"hl7": {"port": 0}, "mqtt": table}, "sinks": {"hl7": table, "mqtt": table}}
    )
    async with AsyncExitStack() as stack:
        outbox = Outbox(tmp_path / "o", ("hl7", "mqtt"))
        assert [type(s) for s in await edges.open_sources(stack, config, Metrics())] == [HL7Source, MqttSource]
        assert [type(s) for s in await edges.open_sinks(stack, config, Metrics(), outbox)] == [Hl7Sink, MqttSink]


async def test_a_port_that_is_taken_is_one_sentence(taken: int) -> None:
    config = Config.model_validate({"sources": {"hl7": {"host": "127.0.0.1", "port": taken}}})
    async with AsyncExitStack() as stack:
        with pytest.raises(StartError, match=r"\[sources.hl7\] cannot listen .* set another sources.hl7.port"):
            await edges.open_sources(stack, config, Metrics())


def test_the_daemon_is_imported_without_what_can_wait_for_the_engine() -> None:
    later = ("aiohttp", "paho", "scipy", "agent.runtime.edges")
    code = f"import sys, agent.runtime.daemon; print([name for name in {later} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
