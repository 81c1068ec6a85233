"""Whom to believe: the keys and revocations of `[engine]`, and what a file that is no key is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.engines.bundles.settings import BundleSettings
from agent.engines.bundles.signing import SigningError


def test_a_file_that_is_no_public_key_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "publisher.pub"
    file.write_text("no key")
    with pytest.raises(SigningError, match=r"publisher\.pub"):
        BundleSettings(trusted_keys=(file,)).trust()


@pytest.mark.parametrize("revoked", ["abc", "G" * 16, "0" * 63])
def test_what_is_revoked_is_an_id_of_a_key_or_a_manifest_s_hash(revoked: str) -> None:
    with pytest.raises(ValidationError):
        BundleSettings(revoked=(revoked,))


def test_a_signature_is_asked_for_unless_the_hospital_says_otherwise() -> None:
    assert BundleSettings().trust().require_signature
    assert not BundleSettings(require_signature=False).trust().require_signature
