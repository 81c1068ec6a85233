"""Fixtures that every room's tests share: real data, a free port, a real broker."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real recordings; CI fails where it is absent, a checkout without it skips."""
    folder = Path(os.environ.get("ECG_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"no recordings at {folder}: CI must not skip the tests on real data; set ECG_DATA")
        pytest.skip("no real recordings: set ECG_DATA to the folder that holds ptbxl500, mitdb, …")
    return folder


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The folder of the reference models' tensors."""
    folder = Path(os.environ.get("ECG_FIXTURES", ROOT.parent / "shared" / "fixtures"))
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"no reference tensors at {folder}: CI must not skip parity; set ECG_FIXTURES")
        pytest.skip("no reference tensors: set ECG_FIXTURES to the folder that holds sl_tiny, …")
    return folder


@pytest.fixture
def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def mosquitto(free_port: int, tmp_path: Path) -> Iterator[int]:
    """A real mosquitto for one test; its port."""
    binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        pytest.fail("mosquitto is not installed: apt-get install mosquitto")
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {free_port} 127.0.0.1\nallow_anonymous true\nmax_packet_size 20000000\n")
    process = subprocess.Popen([binary, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", free_port), timeout=0.1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield free_port
    finally:
        process.terminate()
        process.wait(5)
