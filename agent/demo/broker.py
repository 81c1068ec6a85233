"""An MQTT broker for the demo: mosquitto where it is installed, otherwise amqtt, inside this process."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import DeepECGError


class BrokerError(DeepECGError):
    """No broker could be started; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the demo's broker listens, and what it is."""

    host: str
    port: int
    name: str
    """``mosquitto``, ``amqtt (MQTT 3.1.1 only)`` or ``external``."""


def free_port() -> int:
    """A loopback TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def listening(host: str, port: int, seconds: float) -> bool:
    """Wait until something accepts connections there; False when the time is up."""
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return True
    return False


@asynccontextmanager
async def broker(address: str, folder: Path) -> AsyncIterator[BrokerAddress]:
    """The broker named by ``host:port``, or one that lives as long as the block.

    Raises:
        BrokerError: the named one does not answer, or none can be started.
    """
    if address:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise BrokerError(f"--broker {address!r} is not host:port; write it as 127.0.0.1:1883")
        if not await listening(host, int(port), 3):
            raise BrokerError(f"no broker answers at {address}; start it, or leave --broker out to have one started")
        yield BrokerAddress(host, int(port), "external")
        return
    binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    async with _mosquitto(binary, folder) if binary else _amqtt() as started:
        yield started


@asynccontextmanager
async def _mosquitto(binary: str, folder: Path) -> AsyncIterator[BrokerAddress]:
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\n")
    process = await asyncio.create_subprocess_exec(
        binary, "-c", str(config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        if not await listening("127.0.0.1", port, 10):
            raise BrokerError("mosquitto was started but does not listen; try `mosquitto -v` to see why")
        yield BrokerAddress("127.0.0.1", port, "mosquitto")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def _amqtt() -> AsyncIterator[BrokerAddress]:
    try:
        from amqtt.broker import Broker
    except ImportError as error:
        raise BrokerError(
            "no MQTT broker: install mosquitto, or the package's extra with `pip install 'deepecg-bedside[broker]'`"
        ) from error
    port = free_port()
    embedded = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await embedded.start()
    try:
        yield BrokerAddress("127.0.0.1", port, "amqtt (MQTT 3.1.1 only)")
    finally:
        await embedded.shutdown()
