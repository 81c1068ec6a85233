"""Ed25519 signatures (RFC 8032) of manifests: keys, signing, and who is trusted.

A signature is a file beside what it signs: one line of JSON with the key's id and the signature of the exact bytes,
prefixed by a domain, so that a signature of one kind of file never passes for one of another. As the manifest holds
the checksum of every other file, its signature covers the bundle. There is one way to write a signature file and any
other is refused: a reader that forgives spaces or spare base64 bits accepts bytes that nobody signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from agent.core.errors import DeepECGError

BUNDLE = b"deepecg-bundle-v1\0"
"""Domain of ``manifest.sig``."""
DERIVED = b"deepecg-derived-v1\0"
"""Domain of ``derived.sig``."""
MAX_SIGNATURE = 1024
"""Bytes of a signature file; ours have about 160."""
_MAX_KEY = 64 << 10
_KEY_ID = re.compile(r"[0-9a-f]{16}")


class SigningError(DeepECGError, ValueError):
    """A key or a signature cannot be used; one sentence that says why and how to mend it."""


@dataclass(frozen=True, slots=True)
class Authenticity:
    """What `Trust.check` found of bytes that may be used."""

    signer: str
    """Id of the trusted key that signed them; empty: none did, and none is required."""
    warning: str = ""
    """Why they would have been refused if a signature were required."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose bundles are served here."""

    keys: Mapping[str, Ed25519PublicKey] = field(default_factory=lambda: MappingProxyType({}))
    """Public keys by id."""
    revoked: frozenset[str] = frozenset()
    """Ids of keys, and SHA-256s of manifests, that are refused whoever signed them."""
    require_signature: bool = True
    """False: whatever is wrong with a signature, but for a revocation, is a warning."""

    @classmethod
    def of(cls, files: Iterable[Path], revoked: Iterable[str] = (), *, require_signature: bool = True) -> Self:
        """Trust the public keys in these files.

        Raises:
            SigningError: one of them is no Ed25519 public key.
        """
        return cls(MappingProxyType({}), frozenset(revoked), require_signature).trusting(*map(load_public_key, files))

    def trusting(self, *keys: Ed25519PublicKey) -> Self:
        """The same, and these keys too."""
        return replace(self, keys=MappingProxyType({**self.keys, **{key_id(key): key for key in keys}}))

    def check(self, content: bytes, signature: bytes | None, what: str) -> Authenticity:
        """Whose these bytes of a manifest are. ``signature``: the signature file's content, None where there is none.

        Raises:
            SigningError: they are revoked, or (where signatures are required) not signed by a trusted key.
        """
        digest = hashlib.sha256(content).hexdigest()
        if digest in self.revoked:
            raise SigningError(
                f"{what} is revoked here (engine.revoked names its manifest, {digest[:16]}…); install another version."
            )
        if signature is not None and (claimed := _claimed(signature)) in self.revoked:
            raise SigningError(
                f"{what} is signed by key {claimed}, which is revoked here (engine.revoked); install one that is "
                "signed by another key."
            )
        try:
            return Authenticity(self._signer(content, signature, what))
        except SigningError as error:
            if self.require_signature:
                raise
            return Authenticity("", str(error))

    def _signer(self, content: bytes, signature: bytes | None, what: str) -> str:
        if signature is None:
            raise SigningError(
                f"{what} is not signed; take a signed one from its publisher, sign it (deepecg-train sign), or set "
                "engine.require_signature = false."
            )
        signer, raw = _decode(signature, what)
        key = self.keys.get(signer)
        if key is None:
            raise SigningError(
                f"{what} is signed by key {signer}, which is not trusted here; if it is the publisher's, add the file "
                "of its public key to engine.trusted_keys."
            )
        _verify(key, content, raw, BUNDLE, what)
        return signer


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def sign(content: bytes, key: Ed25519PrivateKey, domain: bytes = BUNDLE) -> bytes:
    """The content of the signature file for these bytes."""
    return _encode(key_id(key.public_key()), key.sign(domain + content))


def verify(content: bytes, signature: bytes, key: Ed25519PublicKey, domain: bytes, what: str) -> None:
    """Hold a signature file against one key.

    Raises:
        SigningError: it is not this key's signature of these bytes.
    """
    signer, raw = _decode(signature, what)
    if signer != key_id(key):
        raise SigningError(f"{what} is signed by key {signer} instead of {key_id(key)}; make it again here.")
    _verify(key, content, raw, domain, what)


def _verify(key: Ed25519PublicKey, content: bytes, raw: bytes, domain: bytes, what: str) -> None:
    try:
        key.verify(raw, domain + content)
    except InvalidSignature as error:
        raise SigningError(
            f"{what} is not what key {key_id(key)} signed: it was changed or damaged; copy it again whole."
        ) from error


def _encode(signer: str, raw: bytes) -> bytes:
    text = json.dumps({"schema": 1, "key": signer, "signature": base64.b64encode(raw).decode("ascii")})
    return text.encode("ascii") + b"\n"


def _decode(signature: bytes, what: str) -> tuple[str, bytes]:
    """Key id and raw signature of a signature file in the one form that `_encode` gives."""
    try:
        document = json.loads(signature.decode("ascii"))
        signer, raw = document["key"], base64.b64decode(document["signature"], validate=True)
        if _KEY_ID.fullmatch(signer) and len(raw) == 64 and _encode(signer, raw) == signature:
            return signer, raw
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        pass  # the same sentence as for what can be read but was not written so
    raise SigningError(f"the signature of {what} is damaged or was not written by deepecg-train sign; copy it again.")


def _claimed(signature: bytes) -> str:
    """Whose signature it says it is; empty: it says nothing."""
    try:
        return _decode(signature, "")[0]
    except SigningError:
        return ""


# Keys


def generate(private: Path, public: Path, *, passphrase: bytes | None = None) -> str:
    """Make a key pair: PKCS #8 in ``private`` (mode 0600), SubjectPublicKeyInfo in ``public``; the key's id.

    Raises:
        SigningError: one of the files is there already, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    if public.exists():
        raise SigningError(f"{public} is there already; a key is never overwritten: name another file.")
    write_private_key(private, key, passphrase=passphrase)
    write_public_key(public, key.public_key())
    return key_id(key.public_key())


def write_private_key(path: Path, key: Ed25519PrivateKey, *, passphrase: bytes | None = None) -> None:
    """Write PKCS #8, encrypted with the passphrase if there is one; the file is never seen by others, nor overwritten.

    Raises:
        SigningError: the file is there already, or cannot be written.
    """
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    _create(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), 0o600)


def write_public_key(path: Path, key: Ed25519PublicKey) -> None:
    """Write SubjectPublicKeyInfo.

    Raises:
        SigningError: the file is there already, or cannot be written.
    """
    _create(path, key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise SigningError(f"{path} is there already; a key is never overwritten: name another file.") from error
    except OSError as error:
        raise SigningError(f"{path} cannot be written ({error.strerror}); name a file in a folder of yours.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def load_private_key(path: Path, *, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Read a private key that nobody else can.

    Raises:
        SigningError: it is missing, others may read it, it is no Ed25519 key, or the passphrase does not open it.
    """
    content = _key_file(path, private=True)
    try:
        key = load_pem_private_key(content, passphrase or None)
    except TypeError as error:  # one of passphrase and encryption without the other
        remedy = "leave the passphrase file out" if passphrase else "name the file of its passphrase"
        raise SigningError(f"{path} is {'not ' if passphrase else ''}encrypted; {remedy}.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(
            f"{path} is no private key in PEM form, or the passphrase is wrong; make one with deepecg-train keygen."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(f"{path} is no Ed25519 key; make one with deepecg-train keygen.")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key.

    Raises:
        SigningError: it is missing, or no single Ed25519 public key.
    """
    content = _key_file(path, private=False)
    if b"PRIVATE KEY" in content:
        raise SigningError(f"{path} holds a private key, which belongs on no ward; give its public half.")
    if content.count(b"-----BEGIN") > 1:
        raise SigningError(f"{path} holds more than one key; write each into a file of its own and name them all.")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(
            f"{path} is no public key in PEM form; take the .pub file that deepecg-train keygen wrote."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise SigningError(f"{path} is no Ed25519 key; take the .pub file that deepecg-train keygen wrote.")
    return key


def read_passphrase(path: Path | None) -> bytes | None:
    """The first line of the file, or None where no file is named.

    Raises:
        SigningError: it cannot be read, or is empty.
    """
    if path is None:
        return None
    passphrase = _key_file(path, private=True).split(b"\n", 1)[0].removesuffix(b"\r")
    if not passphrase:
        raise SigningError(f"{path} begins with an empty line; write the passphrase into its first line.")
    return passphrase


def _key_file(path: Path, *, private: bool) -> bytes:
    """The content of a small plain file; links are followed, as secrets are often mounted by them."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SigningError(f"{path} cannot be opened ({error.strerror}); name the file that holds the key.") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise SigningError(f"{path} is not a plain file; name the file that holds the key.")
    with os.fdopen(descriptor, "rb") as file:
        if private and status.st_mode & 0o077:
            raise SigningError(f"{path} can be read by others than its owner; run: chmod 600 {path}")
        content = file.read(_MAX_KEY + 1)
    if len(content) > _MAX_KEY:
        raise SigningError(f"{path} is larger than {_MAX_KEY} bytes and holds no key; name the right file.")
    return content
