"""Fixtures that every room's tests share: real data, a free port, a real broker."""

from __future__ import annotations

import os
import shutil
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
