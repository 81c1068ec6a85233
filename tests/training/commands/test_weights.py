"""``deepecg-train import`` at the terminal: what it prints, and one sentence with exit code 2 for what goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from training import cli
from training.models.kinds import ConvBlock, SLConfig, SSLConfig
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL
from training.models.weights import load_network, read_config

SL = SLConfig(labels=1, stem=8, blocks=(ConvBlock(8, 3), ConvBlock(16, 5, 2, 24)), tail=32)
SSL = SSLConfig(77, 12, (16,) * 4, 32, 2, 4, 64, 16, 4)


@pytest.fixture
def ssl_file(tmp_path: Path) -> Path:
    net = DeepECGSSL(SSL)
    net.initialise(torch.Generator().manual_seed(0))
    path = tmp_path / "wcr_77_classes.pt"
    torch.save({"cfg": {"model": {"encoder_attention_heads": 4}}, "args": None, "model": net.state_dict()}, path)
    return path


def test_it_says_what_was_imported(ssl_file: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["import", str(ssl_file), str(tmp_path / "m")])
    assert result.exit_code == 0, result.output
    for part in (
        "DeepECG-SSL for 77 diagnoses, ",
        "from wcr_77_classes.pt (fairseq checkpoint, torch.save), sha256 ",
        "outputs: the 77 labels in DeepECG-SSL's order; evaluation puts them in ours",
        "thresholds: 77, published with the paper",
        "on a synthetic window of sinus rhythm: outputs from ",
    ):
        assert part in result.output
    assert read_config(tmp_path / "m").order == "ssl"


def test_options_reach_the_importer(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(DeepECGSL(SL).state_dict(), path)
    options = ["--family", "sl", "--task", "beats", "--labels", "Paced beat", "--no-thresholds"]
    result = CliRunner().invoke(cli.app, ["import", str(path), str(tmp_path / "m"), *options])
    assert result.exit_code == 0, result.output
    assert "outputs: Paced beat" in result.output
    config = read_config(tmp_path / "m")
    assert (config.task, config.labels, config.thresholds) == ("beats", ("Paced beat",), None)
    assert load_network(tmp_path / "m").config == SL


def test_a_folder_takes_no_options(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["import", str(tmp_path), str(tmp_path / "m"), "--task", "lvef_40"])
    assert isinstance(result.exception, ValueError)
    assert "takes no options" in str(result.exception)


def test_at_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    monkeypatch.setattr(sys, "argv", ["deepecg-train", "import", str(tmp_path / "net.pt"), str(tmp_path / "m")])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"deepecg-train: {tmp_path / 'net.pt'}: this is a Git LFS pointer, not the weights: "
        "run git lfs pull, or download the file itself"
    ]
