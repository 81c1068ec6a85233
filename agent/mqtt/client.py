"""paho-mqtt's client as this agent uses it: the one module that touches what is not public in paho.

Four members, named in `SEAMS`. They may change with any release, so paho is pinned to the very version that this was
written for, and both the version and the members are looked for at import: a clear error instead of a link that hangs.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence

import paho.mqtt
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from agent.core.errors import DeepECGError
from agent.mqtt.inbox import Inbox, Message
from agent.mqtt.packets import parse_publish, pubacks

PAHO_VERSION = "2.2.0"
"""The pin of `pyproject.toml`; a test compares them."""
SEAMS = ("_sock_recv", "_handle_publish", "_packet_queue", "_in_packet")
"""What we use of paho though it is not public: it reads the socket, takes a PUBLISH, queues a packet, holds one."""
_CHUNK = 1 << 17
"""Bytes asked of the socket at once."""


class PahoError(DeepECGError, ImportError):
    """Another paho-mqtt is installed than this agent was written for."""


def check_paho(version: str, client: object) -> None:
    """Compare the installed version with ours, and look for each of `SEAMS` on one of its clients.

    Raises:
        PahoError: it is another one.
    """
    missing = [name for name in SEAMS if not hasattr(client, name)]
    if version != PAHO_VERSION or missing:
        lacks = f" (it lacks {', '.join(missing)})" if missing else ""
        raise PahoError(
            f"paho-mqtt {version} is installed{lacks}, and this agent needs {PAHO_VERSION}: "
            f"pip install paho-mqtt=={PAHO_VERSION}"
        )


check_paho(paho.mqtt.__version__, Client(CallbackAPIVersion.VERSION2))


class FastClient(Client):
    """paho's client with a faster way in for the one packet that comes by the hundred each second, PUBLISH.

    paho takes the first bytes of each packet one by one, a system call each, and makes an object of all the properties
    that MQTT 5 knows: several times the cost of decoding the ECG.
    """

    inbox: Inbox
    number: int
    hung_up = False
    """The broker has closed the connection, or reset it: the end of its stream was read."""
    trouble = ""
    """Why nothing more can be read; paho calls each reason "Unspecified error"."""
    _ahead = b""
    _at = 0
    _drained = False

    @property
    def unread(self) -> bool:
        """Bytes are read from the socket, or decrypted, that no packet has taken yet: no event will tell of them."""
        sock = self.socket()
        return self._at < len(self._ahead) or (isinstance(sock, ssl.SSLSocket) and sock.pending() > 0)

    def wake(self) -> None:
        """The socket is readable again."""
        self._drained = False

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._at >= len(self._ahead):
            if self._drained and not self.unread:
                raise BlockingIOError  # a short read has emptied the socket: the next event is waited for
            try:
                self._ahead, self._at = super()._sock_recv(_CHUNK), 0
            except BlockingIOError:
                raise
            except OSError as error:  # a reset, or an alert of TLS
                self.hung_up, self.trouble = isinstance(error, ConnectionError), str(error)
                raise
            if not self._ahead:
                self.hung_up, self.trouble = True, "the broker closed the connection"
            self._drained = len(self._ahead) < _CHUNK
        piece = self._ahead[self._at : self._at + bufsize]
        self._at += len(piece)
        return piece

    def acknowledge(self, mids: Sequence[int]) -> None:
        """One PUBACK for each packet, all in one write; paho's own `ack` makes a write of each."""
        self._packet_queue(0x40, pubacks(mids), mids[-1], 1)

    def _handle_publish(self) -> MQTTErrorCode:
        command = self._in_packet["command"]
        packet = self._in_packet["packet"]
        try:
            topic, mid, content_type, at = parse_publish(command, packet, properties=self.protocol == MQTTv5)
        except IndexError:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self.inbox.put(
            Message(
                topic=topic,
                payload=bytes(memoryview(packet)[at:]),
                qos=command >> 1 & 3,
                retain=bool(command & 1),
                duplicate=bool(command & 8),
                content_type=content_type,
                received=time.monotonic(),
                connection=self.number,
                mid=mid,
            )
        )
        return MQTTErrorCode.MQTT_ERR_SUCCESS
