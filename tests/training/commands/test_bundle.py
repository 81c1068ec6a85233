"""Keys made, a bundle signed and verified, as a publisher types it; compiling is in tests/training/test_cli.py."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from agent.engines.bundles.bundle import default_bundle
from training.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["deepecg-train", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(default_bundle(), tmp_path / "bundle"))


def test_a_bundle_is_signed_and_then_verified(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key, public = tmp_path / "release.key", tmp_path / "release.key.pub"
    assert call(monkeypatch, "keygen", key) == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    made = capsys.readouterr().out.split("private key ")[1].split(",")[0]
    assert call(monkeypatch, "verify", bundle, "--key", public) == 2
    assert "not trusted here" in capsys.readouterr().err
    assert call(monkeypatch, "sign", bundle, "--key", key) == 0
    assert f"is signed by key {made}" in capsys.readouterr().out
    assert call(monkeypatch, "verify", bundle, "--key", default_bundle().parent / "demo.pem", "--key", public) == 0
    assert f"good, key {made}" in capsys.readouterr().out
    assert call(monkeypatch, "verify", default_bundle(), "--key", public) == 2
    assert "which is none of those given" in capsys.readouterr().err
    assert {path.name for path in bundle.iterdir()} == {path.name for path in default_bundle().iterdir()}


def test_a_damaged_bundle_is_not_signed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "keygen", tmp_path / "k")
    before = (bundle / "manifest.sig").read_bytes()
    with (bundle / "model.bin").open("r+b") as file:
        file.write(b"spoilt")
    capsys.readouterr()
    assert call(monkeypatch, "sign", bundle, "--key", tmp_path / "k") == 2
    assert capsys.readouterr().err.startswith("deepecg-train: model.bin does not have the manifest's checksum")
    assert (bundle / "manifest.sig").read_bytes() == before


def test_a_passphrase_comes_from_a_file(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse\n")
    phrase.chmod(0o600)
    assert call(monkeypatch, "keygen", tmp_path / "k", "--passphrase-file", phrase) == 0
    assert call(monkeypatch, "sign", bundle, "--key", tmp_path / "k") == 2
    assert "is encrypted; name the file of its passphrase" in capsys.readouterr().err
    assert call(monkeypatch, "sign", bundle, "--key", tmp_path / "k", "--passphrase-file", phrase) == 0
    assert call(monkeypatch, "keygen", tmp_path / "k") == 2
    assert "is there already; a key is never overwritten" in capsys.readouterr().err
