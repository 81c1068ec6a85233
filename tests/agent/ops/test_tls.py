"""TLS contexts from files: what is refused, and what happens when the files change."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.ops.tls import RotatingContext, TlsError, TlsSettings, abort, client_context, peer_names, server_context


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str = "server") -> tuple[str, ...]:
    """Shake hands in memory; the names that the server sees of the client."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(6):
        for end in (ours, theirs):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    theirs.do_handshake()
    return peer_names(theirs.getpeercert())


def test_both_sides_prove_who_they_are(authorities: Any) -> None:
    authority = authorities("ca")
    server, client = server_context(authority.issue("server")), client_context(authority.issue("gateway"))
    assert handshake(client, server) == ("gateway", "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(client, server, "elsewhere")


def test_a_client_without_a_certificate_or_with_a_strangers(authorities: Any) -> None:
    authority, stranger = authorities("ca"), authorities("other")
    server = server_context(authority.issue("server"))
    with pytest.raises(ssl.SSLError):
        handshake(client_context(TlsSettings(ca=authority.path)), server)
    with pytest.raises(ssl.SSLError):
        handshake(client_context(stranger.issue("gateway").model_copy(update={"ca": authority.path})), server)
    optional = server_context(authority.issue("server").model_copy(update={"client_certificates": "optional"}))
    assert handshake(client_context(TlsSettings(ca=authority.path)), optional) == ()
    open_to_all = server_context(authority.issue("server").model_copy(update={"client_certificates": "none"}))
    assert handshake(client_context(TlsSettings(ca=authority.path)), open_to_all) == ()


def test_a_client_never_takes_a_strangers_server(authorities: Any) -> None:
    authority, stranger = authorities("ca"), authorities("other")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client_context(authority.issue("gateway")), server_context(stranger.issue("server")))


def test_old_protocol_versions_are_not_spoken(authorities: Any) -> None:
    settings = authorities("ca").issue("server")
    assert server_context(settings).minimum_version is ssl.TLSVersion.TLSv1_2
    newest = settings.model_copy(update={"minimum_version": "1.3"})
    assert client_context(newest).minimum_version is ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize("field", ["ca", "certificate", "key"])
def test_files_that_cannot_be_used_are_named(authorities: Any, tmp_path: Path, field: str) -> None:
    settings = authorities("ca").issue("server")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    for path in (rubbish, tmp_path / "absent.pem"):
        with pytest.raises(TlsError, match=path.name):
            server_context(settings.model_copy(update={field: path}))


def test_what_a_server_needs(authorities: Any) -> None:
    settings = authorities("ca").issue("server")
    with pytest.raises(TlsError, match="needs a certificate"):
        server_context(TlsSettings(ca=settings.ca))
    with pytest.raises(TlsError, match="no authority"):
        server_context(settings.model_copy(update={"ca": None}))
    with pytest.raises(ValidationError, match="belong together"):
        TlsSettings(certificate=settings.certificate)


def test_new_files_make_a_new_context_and_bad_ones_keep_the_old(authorities: Any) -> None:
    old, new = authorities("old"), authorities("new")
    settings = old.issue("server", "server")
    rotating = RotatingContext(settings, server_context)
    first = rotating.context()
    assert rotating.context() is first
    new.issue("server", "server")
    key = settings.key.read_bytes()
    settings.key.write_text("half written")
    assert rotating.context() is first
    settings.key.write_bytes(key)
    os.utime(settings.key, ns=(1, 1))
    second = rotating.context()
    assert second is not first
    assert handshake(client_context(new.issue("gateway").model_copy(update={"ca": new.path})), _trusting(second, new))
    settings.certificate.unlink()
    assert rotating.context() is second


def _trusting(context: ssl.SSLContext, authority: Any) -> ssl.SSLContext:
    context.load_verify_locations(authority.path)
    return context


def test_an_encrypted_key_without_its_password_is_an_error_and_no_prompt(authorities: Any, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    settings = authorities("ca").issue("server")
    key = serialization.load_pem_private_key(settings.key.read_bytes(), None)
    settings.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(TlsError):
        server_context(settings)
    password = tmp_path / "password"
    password.write_text("secret\n")
    server_context(settings.model_copy(update={"key_password_file": password}))


def test_names_of_nobody() -> None:
    assert peer_names(None) == ()
    assert peer_names({}) == ()


async def test_a_connection_that_was_closed_twice_can_be_aborted(authorities: Any) -> None:
    """Debian 12's Python could not: one disconnected gateway ended the whole HL7 listener."""
    authority = authorities("ca")
    ended: asyncio.Queue[None] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        for _ in range(2):
            writer.close()
        for _ in range(2):
            abort(writer)
        ended.put_nowait(None)

    async with await asyncio.start_server(
        serve, "127.0.0.1", 0, ssl=server_context(authority.issue("server"))
    ) as server:
        port = server.sockets[0].getsockname()[1]
        context = client_context(authority.issue("gateway"))
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="server")
        writer.close()
        async with asyncio.timeout(60):
            await ended.get()
    abort(writer)
