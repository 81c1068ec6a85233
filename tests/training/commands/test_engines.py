"""Compiling and validating a model folder as a publisher types it; a run's way is in tests/training/test_cli.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agent.core.preprocessing import Preprocessing
from agent.engines.bundles.bundle import open_bundle
from agent.engines.bundles.signing import Trust
from training.cli import main
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL, Pretraining
from training.models.weights import Provenance, config_of, save_network
from training.train.recipes import TINY, smoke, smoke_pretrain


def call(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["deepecg-train", *map(str, words)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def biomarker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow DeepECG-SSL that answers an ejection fraction, for windows of two seconds."""
    net = DeepECGSSL(replace(TINY, labels=1))
    net.initialise(torch.Generator().manual_seed(0))
    about = Provenance(origin="a test", file="lvef.pt", sha256="ab")
    config = config_of(net, task="lvef", preprocessing=Preprocessing(seconds=2.0, gain=1.0), provenance=about)
    folder = tmp_path_factory.mktemp("models") / "lvef"
    save_network(net, folder, config)
    return folder


def test_a_biomarker_s_model_becomes_a_bundle_that_is_validated_by_itself(
    biomarker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key, bundle, report = tmp_path / "key", tmp_path / "bundle", tmp_path / "report.json"
    (tmp_path / "known").write_text("It is a test's.\n")
    assert call(monkeypatch, "keygen", key) == 0
    words = [
        "--model",
        biomarker,
        "--version",
        "2.1",
        "--name",
        "ward-lvef",
        "--key",
        key,
        "--known",
        tmp_path / "known",
    ]
    engines = ["--engine", "openvino-f32", "--engine", "torch-cuda-f16", "--leads", "limb", "--report", report]
    assert call(monkeypatch, "compile", bundle, *words, *engines) == 0
    told = capsys.readouterr()
    assert f"{bundle}: ward-lvef/2.1" in told.out
    assert "engines openvino-f32, torch-cuda-f16" in told.out
    assert "Signed by key" in told.out
    assert "openvino-f32: 100 %" in told.err, "progress"

    manifest = open_bundle(bundle, Trust.of([tmp_path / "key.pub"])).manifest
    (label,) = manifest.labels
    assert label.quantity is not None
    assert [lead.value for lead in manifest.input.required_leads] == ["I", "II", "III", "aVR", "aVL", "aVF"]
    assert manifest.engines[0].batches == ()
    assert "lvef.pt" in manifest.training.summary
    assert "- It is a test's." in (bundle / "README.md").read_text()
    read = json.loads(report.read_text())
    assert read["engines"][0]["build_seconds"] >= 0
    assert set(read["engines"][0]["milliseconds"]) == {"1", "8"}
    assert read["engines"][1]["not_run"] or read["engines"][1]["parity"]["windows"] == read["golden"]

    assert call(monkeypatch, "validate", bundle, "--report", report) == 0
    told = capsys.readouterr()
    assert "ward-lvef/2.1: engines against fp32 torch" in told.out
    assert json.loads(report.read_text())["engines"][0]["parity"]["probability_max"] < 1e-4

    # The publisher narrows the gate: an engine that passed no longer does.
    document = json.loads((bundle / "manifest.json").read_text())
    document["limits"]["logit_max"] = 1e-12
    document["engines"][0]["parity"] = {}
    (bundle / "manifest.json").write_text(json.dumps(document))
    assert call(monkeypatch, "validate", bundle, "--model", biomarker) == 2
    assert f"openvino-f32 of {bundle} may not be served" in " ".join(capsys.readouterr().err.split())


def test_a_failed_gate_writes_no_bundle(
    biomarker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, limits, report = tmp_path / "bundle", tmp_path / "limits.json", tmp_path / "report.json"
    limits.write_text('{"logit_max": 1e-12}')
    words = ["--model", biomarker, "--engine", "openvino-f32", "--no-onnx", "--report", report]
    assert call(monkeypatch, "compile", bundle, *words, "--limits", limits) == 2
    told = capsys.readouterr()
    assert "FAILS" in told.out
    assert f"closed for openvino-f32, and {bundle} was not written" in " ".join(told.err.split())
    assert not bundle.exists()
    assert json.loads(report.read_text())["engines"][0]["broken"].startswith("logit_max is"), "the report is there"


def test_a_pretraining_network_answers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = smoke_pretrain()
    assert recipe.codebook is not None
    net = Pretraining(replace(TINY, labels=0), recipe.codebook)
    save_network(net, tmp_path / "pre", config_of(net, task="pretraining"))
    assert call(monkeypatch, "compile", tmp_path / "x", "--model", tmp_path / "pre") == 2
    assert "pre is a pretraining network; fine-tune it first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{tmp}/run", "{tmp}/b"], "name the dataset of {tmp}/run: --dataset"),
        (["{tmp}/b"], "name the run and the bundle, in this order"),
        (["{tmp}/run", "{tmp}/b", "--model", "{model}"], "or the bundle alone and a model folder: --model"),
        (["{tmp}/b", "--model", "{tmp}"], "no {tmp}/config.json; name a"),
        (["{tmp}/b", "--model", "{model}", "--version", "two"], "--version 'two': String should match pattern"),
        (["{tmp}/b", "--model", "{model}", "--name", "A b"], "--name 'A b': String should match pattern"),
        (["{tmp}/b", "--model", "{model}", "--leads", "some"], "there is no --leads 'some'; take one of all, bedside"),
        (["{tmp}/b", "--model", "{model}", "--engine", "openvino"], "--engine openvino is not FLAVOUR-PRECISION"),
        (["{tmp}/b", "--model", "{model}", "--data", "{tmp}"], "there is no dataset in {tmp}"),
        (
            ["{tmp}/b", "--model", "{model}", "--limits", "{tmp}/limits"],
            "logit: Extra inputs are not permitted; limits are",
        ),
        (["{tmp}/b", "--model", "{model}", "--known", "{tmp}/none"], "No such file or directory: '{tmp}/none'"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_before_the_work(
    biomarker: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    (tmp_path / "limits").write_text('{"logit": 1}')
    filled = [word.replace("{tmp}", str(tmp_path)).replace("{model}", str(biomarker)) for word in words]
    assert call(monkeypatch, "compile", *filled) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("deepecg-train: ")
    assert sentence.replace("{tmp}", str(tmp_path)) in said
    assert "\n" not in said


def test_the_network_of_the_smoke_recipe_is_refused_for_labels_that_it_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = DeepECGSL(replace(smoke().network, labels=1))  # type: ignore[arg-type]
    net.initialise(torch.Generator().manual_seed(0))
    config = config_of(net, task="potassium", labels=("K",), activation="none")
    save_network(net, tmp_path / "k", config)
    assert call(monkeypatch, "compile", tmp_path / "x", "--model", tmp_path / "k") == 2
    assert "'potassium' are numbers of no known scale" in capsys.readouterr().err
