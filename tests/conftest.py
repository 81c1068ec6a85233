"""Fixtures that every room's tests share: real data, a free port, a real broker, certificates."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import settings

from agent.ops.tls import TlsSettings

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

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


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Finds a program that a test needs beside Python; CI fails where it is absent, a checkout without it skips."""

    def _find(name: str) -> str:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if path is None and os.environ.get("CI"):
            pytest.fail(f"{name} is not installed: CI must not skip the tests that need it")
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return _find


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    return _free_port()


class Mosquitto:
    """A real mosquitto on a port that stays the same from start to start."""

    def __init__(self, binary: str, folder: Path, lines: tuple[str, ...]) -> None:
        self._binary = binary
        self._folder = folder
        self._lines = lines
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        for _ in range(5):  # somebody else may take the port between our look at it and mosquitto's
            self.port = _free_port()
            if self._starts():
                return
        pytest.fail(f"mosquitto does not start; look at {self._config}")

    @property
    def _config(self) -> Path:
        return self._folder / f"mosquitto-{self.port}.conf"

    def start(self) -> None:
        """Start it again, on the port that it had."""
        if not self._starts():
            pytest.fail(f"mosquitto does not start again; look at {self._config}")

    def _starts(self) -> bool:
        base = (
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "user root",
            f"persistence_location {self._folder}/",
        )
        self._config.write_text("\n".join((*base, *self._lines)) + "\n")
        process = subprocess.Popen(
            [self._binary, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(1000):
            if process.poll() is not None:
                return False
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    self._process = process
                    return True
            time.sleep(0.01)
        process.kill()
        process.wait()
        return False

    def send(self, number: signal.Signals) -> None:
        """SIGHUP: read users and ACLs again; SIGSTOP and SIGCONT: hold still and go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal, and wait for the end."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(10)
            self._process = None


@pytest.fixture
def start_mosquitto(tmp_path: Path, tool: Callable[[str], str]) -> Iterator[Callable[..., Mosquitto]]:
    """Start a broker with further lines of configuration; each call gives one on a port of its own."""
    brokers: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        brokers.append(Mosquitto(tool("mosquitto"), tmp_path, lines))
        return brokers[-1]

    yield start
    for broker in brokers:
        broker.stop(signal.SIGKILL)


@pytest.fixture
def mosquitto(start_mosquitto: Callable[..., Mosquitto]) -> int:
    """The port of a real mosquitto, for one test."""
    return start_mosquitto().port


class Authority:
    """Signs certificates; its own stands in ``path``."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self.key, authority=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, *, authority: bool = False) -> x509.Certificate:
        now = datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = subject if authority else self.certificate.subject
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            names = [x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name: str, file: str | None = None) -> TlsSettings:
        """A certificate for a common name, in files of that name (or ``file``)."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.folder / f"{file or name}.crt"
        secret = self.folder / f"{file or name}.key"
        certificate.write_bytes(self._sign(name, key).public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return TlsSettings(ca=self.path, certificate=certificate, key=secret)


@pytest.fixture
def authorities(tmp_path: Path) -> Callable[[str], Authority]:
    """Makes an authority by name."""
    return lambda name: Authority(tmp_path, name)
