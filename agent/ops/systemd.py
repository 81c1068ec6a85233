"""What a service of Type=notify tells systemd: sd_notify(3) over the socket that NOTIFY_SOCKET names.

Without that variable, on a terminal or in a container, every call does nothing. A datagram that systemd does not take
at once is lost rather than waited for: the watchdog's next one comes soon enough.
"""

from __future__ import annotations

import os
import socket
from types import TracebackType
from typing import Self


class SystemdNotifier:
    """``with SystemdNotifier() as systemd: systemd.ready()``.

    Args:
        path: the socket; None reads NOTIFY_SOCKET. A leading ``@`` means Linux's abstract namespace.
    """

    def __init__(self, path: str | None = None) -> None:
        path = os.environ.get("NOTIFY_SOCKET", "") if path is None else path
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self) -> None:
        """The engine has passed its self-test and the first feed is subscribed."""
        self._send("READY=1")

    def watchdog(self) -> None:
        """Every stage of the line has progressed; due more often than WatchdogSec."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; free of patient data."""
        self._send("STATUS=" + " ".join(text.splitlines()))

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(message.encode(), self._address)
        except (BlockingIOError, FileNotFoundError, ConnectionRefusedError):
            return  # systemd is being restarted, or its buffer is full
