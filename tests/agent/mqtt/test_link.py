"""The link against real brokers: mosquitto over MQTT 5 and 3.1.1, amqtt, TLS, losses of the connection."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from amqtt.broker import Broker as Amqtt

from agent.mqtt.link import (
    BrokerSettings,
    ConnectionLostError,
    Message,
    MqttError,
    MqttLink,
    NotConnectedError,
    PublishRefusedError,
    PublishTimeoutError,
)
from agent.ops.metrics import Metrics
from agent.ops.tls import TlsSettings


def settings(port: int, client: str, **more: Any) -> BrokerSettings:
    more = {"host": "127.0.0.1", "reconnect_min": 0.05, "reconnect_max": 0.2, "connect_timeout": 3.0} | more
    return BrokerSettings(port=port, client_id=client, **more)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


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
        assert value(metrics, "deepecg_connections", transport="mqtt") == 1.0
    assert value(metrics, "deepecg_connections", transport="mqtt") == 0.0


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
        await asyncio.sleep(0.5)
        broker.start()
        await within(10, reader.subscribed.wait())
        await within(10, writer.connected.wait())
        await writer.publish("x", b"found")
        assert (await within(5, reader.get())).payload == b"found"
        assert value(metrics, "deepecg_reconnects_total", peer="mqtt") == 1.0


async def test_starts_before_the_broker(start_mosquitto: Callable[..., Any]) -> None:
    broker = start_mosquitto()
    broker.stop(signal.SIGKILL)
    async with MqttLink(settings(broker.port, "early"), Metrics(), "mqtt", [("x", 1)]) as link:
        await asyncio.sleep(0.3)
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
        await asyncio.sleep(0.3)
        await lose(reader)
        reader.ack(second)  # belongs to the lost connection: must not acknowledge another message's number
        again = [await within(5, reader.get()), await within(5, reader.get())]
        assert [(m.payload, m.duplicate) for m in again] == [(b"2", True), (b"3", True)]
        for message in again:
            reader.ack(message)
        await writer.publish("x", b"4")
        assert (await within(5, reader.get())).payload == b"4"


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
        await asyncio.sleep(0.3)
        assert reader._inbox._queue.qsize() <= 6
        got = []
        while len(got) < 60:
            message = await within(5, reader.get())
            got.append(int(message.payload))
            reader.ack(message)
        assert got == list(range(60))
        assert value(metrics, "deepecg_messages_dropped_total", transport="mqtt", reason="overflow") == 0.0


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
        await until(
            lambda: value(metrics, "deepecg_messages_dropped_total", transport="mqtt", reason="overflow") == 6.0
        )
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
        await asyncio.sleep(0.3)
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
        await asyncio.sleep(0.2)
        command = ["mosquitto_sub", "-p", str(mosquitto), "-t", STATUS, "-C", "1", "-W", "5"]
        out = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
        assert json.loads(out.stdout)["state"] == "online"


async def test_3_1_1_with_amqtt(free_port: int) -> None:
    """amqtt speaks 3.1.1 only, and hangs up on MQTT 5 without an answer."""
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{free_port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    broker = Amqtt(config)
    await broker.start()
    try:
        async with (
            MqttLink(settings(free_port, "reader"), Metrics(), "mqtt", [("x", 1)]) as reader,
            MqttLink(settings(free_port, "writer"), Metrics(), "w") as writer,
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
    finally:
        await broker.shutdown()


async def test_an_old_broker_that_answers_is_asked_for_3_1_1_from_then_on(mosquitto: int) -> None:
    """mosquitto behind a door that refuses protocol level 5 as a 3.1.1 broker must [MQTT-3.1.2-2]."""
    levels: list[int] = []

    async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connect = await reader.read(4096)
        level = connect[connect.index(b"MQTT") + 4]
        levels.append(level)
        if level == 5:
            writer.write(b"\x20\x02\x00\x01")
        else:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", mosquitto)
            downstream.write(connect)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pipe(reader, downstream))
                tasks.create_task(pipe(upstream, writer))
        writer.close()

    async with await asyncio.start_server(door, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with MqttLink(settings(port, "reader"), Metrics(), "mqtt", [("x", 1)]) as link:
            await within(5, link.subscribed.wait())
            assert link.protocol == "3.1.1"
            await lose(link)
            assert levels == [5, 4, 4]


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def test_a_broker_that_accepts_and_says_nothing(free_port: int) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", free_port):
        async with MqttLink(settings(free_port, "a", connect_timeout=0.2), Metrics(), "mqtt", [("x", 1)]) as link:
            await asyncio.sleep(1.0)
            assert not link.connected.is_set()


@pytest.mark.parametrize(
    "answer", [b"\xff" * 64, b"\x20\x02\x00", b"\x20\x7f" + b"\xee" * 127, b"HTTP/1.1 400 Bad\r\n\r\n"]
)
async def test_a_peer_that_is_no_broker(free_port: int, answer: bytes) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(answer)
        await asyncio.sleep(0.1)
        writer.close()

    async with await asyncio.start_server(nonsense, "127.0.0.1", free_port):
        async with MqttLink(settings(free_port, "a", connect_timeout=0.5), Metrics(), "mqtt", [("x", 1)]) as link:
            await asyncio.sleep(0.6)
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
            await until(lambda: value(metrics, "deepecg_reconnects_total", peer="w") >= 1.0)


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
        await asyncio.sleep(0.4)
        assert not link.connected.is_set()
        secret.write_text("s3cret\n")  # read anew for each connection
        await within(5, link.subscribed.wait())


async def test_tls_with_a_client_certificate(start_mosquitto: Callable[..., Any], pki: Any) -> None:
    broker = start_mosquitto(
        f"cafile {pki.ca}", f"certfile {pki.server[0]}", f"keyfile {pki.server[1]}", "require_certificate true"
    )
    tls = TlsSettings(ca=pki.ca, certificate=pki.client[0], key=pki.client[1])
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
async def test_tls_refusals(start_mosquitto: Callable[..., Any], pki: Any, kind: str) -> None:
    broker = start_mosquitto(
        f"cafile {pki.ca}", f"certfile {pki.server[0]}", f"keyfile {pki.server[1]}", "require_certificate true"
    )
    tls = {
        "no certificate": TlsSettings(ca=pki.ca),
        "of another authority": TlsSettings(ca=pki.ca, certificate=pki.stranger[0], key=pki.stranger[1]),
        "does not trust the broker": TlsSettings(ca=pki.stranger[0], certificate=pki.client[0], key=pki.client[1]),
    }[kind]
    async with MqttLink(settings(broker.port, "a", tls=tls), Metrics(), "mqtt", [("x", 1)]) as link:
        await asyncio.sleep(0.6)
        assert not link.connected.is_set()


async def test_a_host_that_does_not_resolve_blocks_nobody() -> None:
    loop = asyncio.get_running_loop()
    async with MqttLink(settings(1883, "a", host="no-such-broker.invalid"), Metrics(), "mqtt", [("x", 1)]) as link:
        worst = 0.0
        for _ in range(40):
            began = loop.time()
            await asyncio.sleep(0.01)
            worst = max(worst, loop.time() - began)
        assert not link.connected.is_set()
    assert worst < 0.5


async def test_leaving_while_dialling_is_quick() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with MqttLink(settings(1883, "a", host="192.0.2.1", connect_timeout=30), Metrics(), "mqtt", [("x", 1)]):
        await asyncio.sleep(0.1)
    assert loop.time() - began < 2.0


async def test_another_client_with_our_name_is_fought_with_patience(mosquitto: int) -> None:
    metrics = Metrics()
    async with (
        MqttLink(settings(mosquitto, "same"), metrics, "mqtt", [("x", 1)]),
        MqttLink(settings(mosquitto, "same"), metrics, "w"),
    ):
        await asyncio.sleep(1.0)
        assert value(metrics, "deepecg_reconnects_total", peer="mqtt") < 60
