"""One MQTT connection: paho-mqtt driven by the asyncio loop's own readers and writers.

Only the dialling (DNS, TCP, TLS) runs in a thread. `agent.mqtt.link` makes one `Connection` after the other; nobody
else uses this module.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from paho.mqtt import MQTTException
from paho.mqtt.client import (
    MQTT_CLEAN_START_FIRST_ONLY,
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTv5,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.mqtt.client import FastClient
from agent.mqtt.errors import (
    BrokerRefusesError,
    ConnectionLostError,
    HungUpError,
    NoAnswerError,
    ProtocolRefusedError,
    PublishRefusedError,
    PublishTimeoutError,
)
from agent.mqtt.inbox import Inbox
from agent.mqtt.settings import BrokerSettings

FAILURE = 0x80
"""Section 2.4: reason codes from here on are failures."""
_UNSUPPORTED_VERSION = 0x84
"""Section 3.2.2.2; paho gives this for the return code 1 of an older broker's CONNACK too [MQTT-3.1.2-2 of 3.1.1]."""
_BURST = 64
"""Packets read before the loop's other tasks get their turn."""
_ACK_DELAY = 0.05
"""Seconds for which acknowledgements are gathered, to leave in one write; a quarter of the window does not wait."""


@dataclass(frozen=True, slots=True)
class Up:
    """What the broker's CONNACK said."""

    code: int
    text: str
    session_present: bool


class Connection:
    """One connection's life, with a paho client of its own. paho calls back in the loop only; nothing here raises."""

    def __init__(
        self, number: int, protocol: MQTTProtocolVersion, settings: BrokerSettings, inbox: Inbox, *, clean: bool
    ) -> None:
        self.number = number
        self.protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._inbox = inbox
        self._clean = clean
        self._flushing = False
        self._acks: list[int] = []
        self._ack_batch = min(64, max(1, settings.receive_maximum // 4))
        self._ack_timer: asyncio.TimerHandle | None = None
        self._paused: asyncio.Task[None] | None = None
        self._sock: Any = None
        self._waits: dict[int, asyncio.Future[list[int]]] = {}
        self._connack: asyncio.Future[Up] = self._loop.create_future()
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self._client = self._make_client()

    def _make_client(self) -> FastClient:
        settings = self._settings
        # paho's own answer to a refusal, a blocking reconnect inside the read, is switched off
        client = FastClient(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=self.protocol,
            clean_session=None if self.protocol == MQTTv5 else self._clean,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = settings.connect_timeout
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.inbox = self._inbox
        client.number = self.number
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        return client

    # --- from the link

    async def open(self, context: ssl.SSLContext | None, password: str | None, will: tuple[str, bytes] | None) -> None:
        """Dial, send CONNECT and begin to read.

        Raises:
            OSError: the broker cannot be reached; ValueError where its name is none.
            ConnectionLostError: it closed the connection before CONNECT was sent, as one does that wants another
                certificate.
        """
        client, settings = self._client, self._settings
        if context is not None:
            client.tls_set_context(context)
            client.tls_insecure_set(not context.check_hostname)
        if settings.username:
            client.username_pw_set(settings.username, password)
        if will is not None:
            client.will_set(*will, qos=1, retain=True)
        dialled: asyncio.Future[None] = self._loop.create_future()
        # A daemon thread, not the executor: a resolver that hangs must hold up neither a shutdown nor anybody else.
        threading.Thread(target=self._dial, args=(dialled,), name="mqtt-dial", daemon=True).start()
        async with asyncio.timeout(3 * settings.connect_timeout):
            await dialled
        self._sock = client.socket()
        if self._sock is None:  # the first write already failed
            raise ConnectionLostError("the broker closed the connection before CONNECT; does it take our certificate?")
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write
        self._loop.add_reader(self._sock, self._readable)
        if client.want_write():
            self._loop.add_writer(self._sock, self._writable)

    async def answer(self) -> Up:
        """The broker's answer to CONNECT, which is good.

        Raises:
            MqttError: ProtocolRefusedError, BrokerRefusesError, HungUpError, NoAnswerError or ConnectionLostError.
        """
        within = self._settings.connect_timeout
        await asyncio.wait((self._connack, self.closed), timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if self._connack.done():
            answer = self._connack.result()
            if answer.code == _UNSUPPORTED_VERSION:
                raise ProtocolRefusedError("the broker does not speak this version of MQTT; set `protocol`")
            if answer.code >= FAILURE:
                raise BrokerRefusesError(f"the broker refuses us ({answer.text}); look after its users and limits")
            return answer
        if self._client.hung_up:
            raise HungUpError("the broker closed the connection instead of answering; see its log for the reason")
        if self.closed.done():
            raise ConnectionLostError(self.closed.result())
        raise NoAnswerError(f"the broker did not answer within {within:g} s; see whether it is busy")

    def _dial(self, dialled: asyncio.Future[None]) -> None:
        settings = self._settings
        properties = None
        if self.protocol == MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0 if self._clean else settings.session_expiry
            properties.ReceiveMaximum = settings.receive_maximum
            properties.MaximumPacketSize = settings.max_packet
        error: OSError | ValueError | None = None
        try:
            self._client.connect(
                settings.host,
                settings.port,
                settings.keepalive,
                clean_start=self._clean if self.protocol == MQTTv5 else MQTT_CLEAN_START_FIRST_ONLY,
                properties=properties,
            )
        except (OSError, ValueError) as problem:  # names that do not resolve or encode, TLS, refusals, time-outs
            error = problem
        try:
            self._loop.call_soon_threadsafe(self._dialled, dialled, error)
        except RuntimeError:  # the loop is gone: so is whoever wanted this connection
            self._client.disconnect()

    def _dialled(self, dialled: asyncio.Future[None], error: OSError | ValueError | None) -> None:
        if dialled.cancelled():
            self._client.disconnect()
        elif error is not None:
            dialled.set_exception(error)
        else:
            dialled.set_result(None)

    async def subscribe(self, subscriptions: Sequence[tuple[str, int]]) -> list[int]:
        """The broker's reason codes, one per subscription."""
        if self.protocol == MQTTv5:
            # Retained waveforms are stale: retain handling 2 asks for none (section 3.8.3.1).
            options = [(topic, SubscribeOptions(qos=qos, retainHandling=2)) for topic, qos in subscriptions]
            _, mid = self._client.subscribe(options)
        else:
            _, mid = self._client.subscribe(list(subscriptions))
        if mid is None:
            raise ConnectionLostError("the connection was lost before the subscription; it is made anew")
        return await self._wait(mid, self._settings.connect_timeout)

    async def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties | None, within: float
    ) -> int:
        """The broker's reason code."""
        try:
            info = self._client.publish(topic, payload, qos, retain, properties)
        except ValueError as error:
            raise PublishRefusedError(f"the message cannot be sent ({error}); correct its topic") from None
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise PublishRefusedError("too many messages wait for the broker; send fewer at a time")
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise ConnectionLostError("the connection was lost before the message was sent; send it again")
        return (await self._wait(info.mid, within))[0]

    async def _wait(self, mid: int, within: float) -> list[int]:
        """The codes of the acknowledgement of packet ``mid``."""
        if self.closed.done():
            raise ConnectionLostError("the connection was lost; send it again")
        answer: asyncio.Future[list[int]] = self._loop.create_future()
        self._waits[mid] = answer
        try:
            async with asyncio.timeout(within):
                return await answer
        except TimeoutError:
            # Section 4.4 forbids to send again on the same connection, so a broker that does not answer is left.
            self.drop("the broker did not acknowledge in time")
            raise PublishTimeoutError(f"the broker did not acknowledge within {within:g} s; send it again") from None
        finally:
            self._waits.pop(mid, None)

    def ack(self, mid: int) -> None:
        """PUBACK, now or together with those of the next moment."""
        self._acks.append(mid)
        if len(self._acks) >= self._ack_batch:
            self._send_acks()
        elif self._ack_timer is None:
            self._ack_timer = self._loop.call_later(_ACK_DELAY, self._send_acks)

    def _send_acks(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._acks and self._sock is not None:
            self._client.acknowledge(self._acks)
        self._acks.clear()

    def tick(self) -> None:
        """Keep-alive; at least once a second."""
        self._client.loop_misc()

    async def close(self) -> None:
        """Say good-bye, so that the broker does not publish the last will."""
        self._send_acks()
        self._client.disconnect()
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.shield(self.closed)
        self.drop("closed")

    def drop(self, why: str) -> None:
        """Close the socket without a word: the broker will publish the last will."""
        self._forget_socket()
        if (sock := self._client.socket()) is not None:  # dialled, and never taken over
            sock.close()
        self._lost(why)

    # --- from the loop

    def _readable(self) -> None:
        self._client.wake()
        for _ in range(_BURST):
            try:
                self._client.loop_read()
            except (MQTTException, ValueError, LookupError, struct.error) as error:
                self.drop(f"the broker sent what is not MQTT ({type(error).__name__})")
            if self._sock is None:
                return
            if self._inbox.full:
                if self._paused is None:
                    self._loop.remove_reader(self._sock)
                    self._paused = self._loop.create_task(self._resume())
                return
            if not self._client.unread:
                return
        self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._sock is not None and self._paused is None:
            self._readable()

    async def _resume(self) -> None:
        await self._inbox.drained()
        self._paused = None
        if self._sock is not None:
            self._loop.add_reader(self._sock, self._readable)
            self._readable()  # what was read ahead does not make the socket readable

    def _flush(self) -> None:
        self._flushing = False
        if self._sock is not None:
            self._client.loop_write()
        if self._sock is not None and self._client.want_write():
            self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        self._client.loop_write()

    # --- from paho

    def _on_register_write(self, _client: Client, _userdata: object, _sock: Any) -> None:
        # Written at the end of this turn of the loop, all packets together; a writer only where the socket is full.
        if self._sock is not None and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _on_unregister_write(self, _client: Client, _userdata: object, sock: Any) -> None:
        if self._sock is not None:
            self._loop.remove_writer(sock)

    def _on_socket_close(self, _client: Client, _userdata: object, _sock: Any) -> None:
        self._forget_socket(close=False)

    def _on_connect(
        self, _client: Client, _userdata: object, flags: ConnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        if not self._connack.done():
            self._connack.set_result(Up(code.value, str(code), flags.session_present))

    def _on_disconnect(
        self, _client: Client, _userdata: object, flags: DisconnectFlags, code: ReasonCode, _properties: object
    ) -> None:
        self._forget_socket(close=False)
        said = f"the broker ended it: {code}" if flags.is_disconnect_packet_from_server else str(code)
        self._lost(self._client.trouble or said)

    def _on_subscribe(
        self, _client: Client, _userdata: object, mid: int, codes: list[ReasonCode], _properties: object
    ) -> None:
        self._answer(mid, [code.value for code in codes])

    def _on_publish(
        self, _client: Client, _userdata: object, mid: int, code: ReasonCode, _properties: Properties
    ) -> None:
        self._answer(mid, [code.value])

    # --- ends

    def _answer(self, mid: int, codes: list[int]) -> None:
        if (answer := self._waits.get(mid)) is not None and not answer.done():
            answer.set_result(codes)

    def _forget_socket(self, *, close: bool = True) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._send_acks()  # nothing is sent any more: only the timer ends
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
        if close:
            sock.close()

    def _lost(self, why: str) -> None:
        if not self.closed.done():
            self.closed.set_result(why)
        for answer in self._waits.values():
            if not answer.done():
                answer.set_exception(ConnectionLostError("the connection was lost; send it again"))
