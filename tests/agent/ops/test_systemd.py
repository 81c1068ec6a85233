"""The notification protocol against a real datagram socket."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import pytest

from agent.ops.systemd import SystemdNotifier


def _server(address: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(address)
    server.settimeout(2.0)
    return server


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"deepecg-{secrets.token_hex(6)}"
    path = f"@{name}" if abstract else str(tmp_path / name)
    with _server("\0" + name if abstract else path) as server:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        with SystemdNotifier() as systemd:
            systemd.ready()
            systemd.status("8 beds\nREADY=1")
            systemd.watchdog()
            systemd.stopping()
        got = [server.recv(4096).decode() for _ in range(4)]
    assert got == ["READY=1", "STATUS=8 beds READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_without_socket_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with SystemdNotifier() as systemd:
        systemd.ready()
        systemd.watchdog()


def test_a_missing_or_full_socket_never_blocks(tmp_path: Path) -> None:
    with SystemdNotifier(str(tmp_path / "nobody")) as systemd:
        systemd.watchdog()
    path = str(tmp_path / "full")
    with _server(path), SystemdNotifier(path) as systemd:
        for _ in range(2000):
            systemd.watchdog()
