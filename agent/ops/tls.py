"""TLS from files: contexts for both sides, and certificates that are renewed without a restart.

Secrets come by file path only. A context is never changed once made: when a file's modification time changes, a new
context is made for new connections, and connections that are open keep the one they started with.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, model_validator

from agent.core.errors import DeepECGError

log = structlog.get_logger()


def abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection, TLS or not, without waiting for the peer; one that is closed already is left alone.

    asyncio before Python 3.11.4 (Debian 12 has 3.11.2) forgets the protocol of a TLS transport that is closed twice. To
    abort it then is an AttributeError, which would end every connection beside it.
    """
    with suppress(AttributeError):
        writer.transport.abort()


class TlsSettings(BaseModel):
    """Certificates and keys of one connection, by file path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path | None = None
    """PEM file of the authorities that sign the other side's certificates. Without it a client trusts the system's."""
    certificate: Path | None = None
    """PEM file of our certificate, followed by its intermediates. A server must have one."""
    key: Path | None = None
    """PEM file of our private key; needed with `certificate`."""
    key_password_file: Path | None = None
    """File that holds the key's password, where it has one."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest TLS version that is spoken."""
    client_certificates: Literal["required", "optional", "none"] = "required"
    """Whether a server asks its clients for a certificate; a client ignores it."""
    check_hostname: bool = True
    """Whether a client insists that the server's certificate names the host it dialled; a server ignores it."""

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; give both or neither")
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the contexts are made of."""
        paths = (self.ca, self.certificate, self.key, self.key_password_file)
        return tuple(path for path in paths if path is not None)


class TlsError(DeepECGError, ValueError):
    """The files do not make a TLS context; one sentence that says which and how to mend it."""


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """A context for accepting connections.

    Raises:
        TlsError: a file is missing, unreadable or no fitting PEM, or client certificates are asked for without `ca`.
    """
    if settings.certificate is None:
        raise TlsError("a TLS server needs a certificate; set `certificate` and `key` to its PEM files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if settings.client_certificates != "none":
        if settings.ca is None:
            raise TlsError("client certificates are asked for, but no authority is named; set `ca` to its PEM file")
        required = settings.client_certificates == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    _load(context, settings)
    return context


def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """A context for opening connections; the server's certificate is always verified.

    Raises:
        TlsError: a file is missing, unreadable or no fitting PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = settings.check_hostname
    if settings.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    _load(context, settings)
    return context


class RotatingContext:
    """The newest context of one set of files: ask it before every connection."""

    def __init__(self, settings: TlsSettings, make: Callable[[TlsSettings], ssl.SSLContext]) -> None:
        """``make`` is `server_context` or `client_context`.

        Raises:
            TlsError: the files that are there at the start make no context.
        """
        self._settings = settings
        self._make = make
        self._stamps = self._read_stamps()
        self._context = make(settings)

    def context(self) -> ssl.SSLContext:
        """The context for a connection that begins now.

        Where the files have changed but make no context, as between the writing of a certificate and of its key, the
        last good one stays in use and the files are tried again at the next connection.
        """
        stamps = self._read_stamps()
        if stamps != self._stamps:
            try:
                self._context = self._make(self._settings)
            except TlsError as error:
                log.warning("tls_files_changed_but_unusable", error=str(error))
            else:
                self._stamps = stamps
                log.info("tls_files_reloaded")
        return self._context

    def _read_stamps(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._settings.files)


def peer_names(certificate: dict[str, object] | None) -> tuple[str, ...]:
    """Subject common names and alternative names of a verified peer's certificate, as `ssl` returns it.

    Empty where the peer showed none, or where it was not verified.
    """
    if not certificate:
        return ()
    names: list[str] = []
    subject = certificate.get("subject", ())
    if isinstance(subject, tuple):
        names.extend(value for rdn in subject for key, value in rdn if key == "commonName")
    alternatives = certificate.get("subjectAltName", ())
    if isinstance(alternatives, tuple):
        names.extend(value for kind, value in alternatives if kind in {"DNS", "URI", "email", "IP Address"})
    return tuple(dict.fromkeys(names))


def _load(context: ssl.SSLContext, settings: TlsSettings) -> None:
    versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = versions[settings.minimum_version]
    try:
        if settings.ca is not None:
            context.load_verify_locations(settings.ca)
        if settings.certificate is not None:
            # An empty password keeps OpenSSL from asking for one on the terminal when the key is encrypted.
            password = settings.key_password_file.read_text().rstrip("\r\n") if settings.key_password_file else ""
            context.load_cert_chain(settings.certificate, settings.key, password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = ", ".join(str(path) for path in settings.files)
        raise TlsError(f"the TLS files {files} cannot be used ({error}); check path, permissions and PEM") from None


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
