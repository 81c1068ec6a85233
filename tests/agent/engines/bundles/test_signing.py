"""Keys and signatures: who is trusted, and that nothing but the signed bytes passes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.bundles.signing import (
    BUNDLE,
    DERIVED,
    SigningError,
    Trust,
    generate,
    key_id,
    load_private_key,
    load_public_key,
    read_passphrase,
    sign,
    verify,
    write_private_key,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
CONTENT = b'{"name": "x"}'
TRUST = Trust().trusting(KEY.public_key())


def refused(match: str, call: Callable[[], object]) -> None:
    with pytest.raises(SigningError, match=match) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400


# Signatures


def test_a_signature_is_one_line_that_names_its_key() -> None:
    document = json.loads(sign(CONTENT, KEY))
    assert document == {
        "schema": 1,
        "key": key_id(KEY.public_key()),
        "signature": base64.b64encode(KEY.sign(b"deepecg-bundle-v1\0" + CONTENT)).decode(),
    }
    assert sign(CONTENT, KEY).count(b"\n") == 1


def test_what_a_trusted_key_signed_is_good() -> None:
    verdict = TRUST.check(CONTENT, sign(CONTENT, KEY), "bundle x")
    assert (verdict.signer, verdict.warning) == (key_id(KEY.public_key()), "")


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_signature_passes_for_other_bytes(one: bytes, two: bytes) -> None:
    signature = sign(one, KEY)
    if one == two:
        assert TRUST.check(two, signature, "x").signer
    else:
        refused("changed or damaged", lambda: TRUST.check(two, signature, "x"))


@given(st.integers(0, len(sign(CONTENT, KEY)) - 1), st.integers(1, 255))
def test_no_byte_of_a_signature_file_is_spare(place: int, flip: int) -> None:
    spoilt = bytearray(sign(CONTENT, KEY))
    spoilt[place] ^= flip
    refused("damaged|not trusted", lambda: TRUST.check(CONTENT, bytes(spoilt), "x"))


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 900,
        b"\xff",
        sign(CONTENT, KEY) + b" ",
        sign(CONTENT, KEY).replace(b": ", b":"),
        sign(CONTENT, KEY).replace(b'"schema": 1', b'"schema": 2'),
        sign(CONTENT, KEY).replace(b'"schema": 1', b'"schema": 1, "schema": 1'),
        json.dumps({"schema": 1, "key": key_id(KEY.public_key()), "signature": 1}).encode() + b"\n",
        json.dumps({"schema": 1, "key": None, "signature": ""}).encode() + b"\n",
    ],
)
def test_a_signature_file_of_another_form_is_refused(signature: bytes) -> None:
    refused("signature of x is damaged", lambda: TRUST.check(CONTENT, signature, "x"))
    assert Trust(require_signature=False).check(CONTENT, signature, "x").warning


def test_domains_keep_kinds_of_file_apart() -> None:
    derived = sign(CONTENT, KEY, DERIVED)
    verify(CONTENT, derived, KEY.public_key(), DERIVED, "x")
    refused("changed or damaged", lambda: verify(CONTENT, derived, KEY.public_key(), BUNDLE, "x"))
    refused("changed or damaged", lambda: TRUST.check(CONTENT, derived, "x"))
    refused("signed by key", lambda: verify(CONTENT, derived, OTHER.public_key(), DERIVED, "x"))


def test_another_key_is_not_trusted_though_it_borrow_the_id() -> None:
    refused("not trusted here; .*trusted_keys", lambda: TRUST.check(CONTENT, sign(CONTENT, OTHER), "x"))
    raw = base64.b64encode(OTHER.sign(BUNDLE + CONTENT))
    borrowed = sign(CONTENT, KEY).split(b'"signature": "')[0] + b'"signature": "' + raw + b'"}\n'
    refused("changed or damaged", lambda: TRUST.check(CONTENT, borrowed, "x"))


def test_without_requirement_every_fault_is_a_warning_but_a_revocation() -> None:
    lax = Trust(TRUST.keys, require_signature=False)
    assert "not signed" in lax.check(CONTENT, None, "x").warning
    assert "not trusted" in lax.check(CONTENT, sign(CONTENT, OTHER), "x").warning
    assert "changed" in lax.check(CONTENT, sign(b"else", KEY), "x").warning
    assert lax.check(CONTENT, sign(CONTENT, KEY), "x").signer
    for revoked in (key_id(KEY.public_key()), hashlib.sha256(CONTENT).hexdigest()):
        none = Trust(TRUST.keys, frozenset([revoked]), require_signature=False)
        refused("is .*revoked here", lambda none=none: none.check(CONTENT, sign(CONTENT, KEY), "x"))


# Keys


def test_a_pair_is_written_for_its_owner_and_read_again(tmp_path: Path) -> None:
    made = generate(tmp_path / "k", tmp_path / "k.pub")
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    key = load_private_key(tmp_path / "k")
    assert made == key_id(key.public_key()) == key_id(load_public_key(tmp_path / "k.pub"))
    assert (tmp_path / "k").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")  # PKCS #8
    assert (tmp_path / "k.pub").read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")  # SubjectPublicKeyInfo


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    generate(tmp_path / "k", tmp_path / "k.pub")
    before = (tmp_path / "k").read_bytes()
    refused("never overwritten", lambda: generate(tmp_path / "k", tmp_path / "k2.pub"))
    refused("never overwritten", lambda: generate(tmp_path / "k2", tmp_path / "k.pub"))
    assert not (tmp_path / "k2").exists()
    assert (tmp_path / "k").read_bytes() == before
    (tmp_path / "link").symlink_to(tmp_path / "target")
    refused("never overwritten|cannot be written", lambda: write_private_key(tmp_path / "link", KEY))
    assert not (tmp_path / "target").exists()
    refused("cannot be written", lambda: generate(tmp_path / "no" / "k", tmp_path / "k3.pub"))


def test_a_passphrase_closes_the_key(tmp_path: Path) -> None:
    (tmp_path / "phrase").write_bytes(b"correct horse\nsecond line\n")
    (tmp_path / "phrase").chmod(0o600)
    phrase = read_passphrase(tmp_path / "phrase")
    assert phrase == b"correct horse"
    generate(tmp_path / "k", tmp_path / "k.pub", passphrase=phrase)
    assert b"ENCRYPTED" in (tmp_path / "k").read_bytes()
    assert load_private_key(tmp_path / "k", passphrase=phrase)
    refused("is encrypted; name the file of its passphrase", lambda: load_private_key(tmp_path / "k"))
    refused("the passphrase is wrong", lambda: load_private_key(tmp_path / "k", passphrase=b"wrong"))
    generate(tmp_path / "open", tmp_path / "open.pub")
    refused("not encrypted; leave", lambda: load_private_key(tmp_path / "open", passphrase=phrase))
    (tmp_path / "phrase").write_bytes(b"\n")
    refused("empty line", lambda: read_passphrase(tmp_path / "phrase"))
    assert read_passphrase(None) is None


def test_a_private_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    generate(tmp_path / "k", tmp_path / "k.pub")
    (tmp_path / "k").chmod(0o640)
    refused("can be read by others .* chmod 600", lambda: load_private_key(tmp_path / "k"))


def test_files_that_hold_no_key(tmp_path: Path) -> None:
    generate(tmp_path / "k", tmp_path / "k.pub")
    private, public = (tmp_path / "k").read_bytes(), (tmp_path / "k.pub").read_bytes()
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    rsa_public = rsa_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    rsa_private = rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content, said in (
        (b"", "no public key in PEM form"),
        (b"ssh-ed25519 AAAA", "no public key in PEM form"),
        (public[:60], "no public key in PEM form"),
        (private, "holds a private key"),
        (public + public, "more than one key"),
        (rsa_public, "no Ed25519 key"),
        (b"x" * 100_000, "larger than"),
    ):
        (tmp_path / "f").write_bytes(content)
        refused(said, lambda: load_public_key(tmp_path / "f"))
    (tmp_path / "f").chmod(0o600)
    for content, said in ((public, "no private key"), (private[:80], "no private key"), (rsa_private, "no Ed25519")):
        (tmp_path / "f").write_bytes(content)
        refused(said, lambda: load_private_key(tmp_path / "f"))
    refused("cannot be opened", lambda: load_public_key(tmp_path / "absent"))
    refused("not a plain file", lambda: load_public_key(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    refused("not a plain file", lambda: load_public_key(tmp_path / "pipe"))  # and does not wait for a writer
    refused("cannot be opened", lambda: Trust.of([tmp_path / "absent"]))


def test_a_key_may_be_mounted_by_a_link(tmp_path: Path) -> None:
    generate(tmp_path / "k", tmp_path / "k.pub")
    (tmp_path / "link").symlink_to(tmp_path / "k.pub")
    assert Trust.of([tmp_path / "link"]).keys
