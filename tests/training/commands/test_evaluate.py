"""The commands, from files of predictions to what a person reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from typer.testing import CliRunner

from agent.core.labels import LABEL_NAMES
from training.cli import app, main
from training.evaluation.cases import Cases
from training.evaluation.thresholds import choose
from training.models.sl import DeepECGSL
from training.models.weights import config_of, save_network
from training.train.recipes import RECIPES

NAMES = ("Afib", "Sinusal", "Left axis deviation", "Brugada")


def simulated(n: int, seed: int, prefix: str, gain: float = 2.0) -> Cases:
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 4)) < [0.2, 0.6, 0.3, 0.004]).astype(np.int8)
    score = rng.normal(0, 1, truth.shape) + gain * truth
    who = np.arange(n) // 2
    return Cases(
        names=NAMES,
        probability=expit(gain * (score - gain / 2) - 1).astype(np.float32),
        truth=truth,
        patient=np.char.add(prefix, who.astype(np.str_)),
        source=np.full(n, "simulated"),
        site=np.full(n, ""),
        sex=np.array(["M", "F"])[who % 2],
        age=(20.0 + who % 60).astype(np.float32),
        leads=np.ones((n, 12), bool),
        record=np.arange(n).astype(np.str_),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictions")
    test = simulated(500, 0, "p")
    test.save(folder / "test.npz")
    simulated(500, 1, "v").save(folder / "validation.npz")
    noisy = expit(np.log(test.probability / (1 - test.probability)) + np.random.default_rng(2).normal(0, 2, (500, 4)))
    replace(test, probability=noisy.astype(np.float32)).save(folder / "noisy.npz")
    choose(simulated(500, 1, "v")).save(folder / "thresholds.json")
    return folder


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_evaluate_writes_the_three_files(files: Path, tmp_path: Path) -> None:
    said = call(
        "evaluate", files / "test.npz", "--validation", files / "validation.npz", "--out", tmp_path / "report",
        "--resamples", 40, "--name", "Model X", "--date", "2026-01-01", "--training", "nothing",
    )  # fmt: skip
    assert "AUROC ." in said
    assert "fewer than 20 positive validation patients" in said
    read = json.loads((tmp_path / "report" / "evaluation.json").read_text("utf-8"))
    assert read["settings"]["model"] == "Model X"
    assert read["thresholds"].startswith("Youden's index, chosen on 250 validation patients")
    assert "Model X" in (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "nothing" in (tmp_path / "report" / "model-card.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "origin"),
    [
        ([], ""),
        (["--thresholds", "{files}/thresholds.json"], "Youden's index, chosen on 250 validation patients"),
        (["--thresholds", "sl"], "published for DeepECG-SL's weights (Youden's index)"),
    ],
)
def test_evaluate_with_thresholds_of_others_and_without(
    files: Path, tmp_path: Path, options: list[str], origin: str
) -> None:
    filled = [option.replace("{files}", str(files)) for option in options]
    call("evaluate", files / "test.npz", "--out", tmp_path, "--resamples", 20, "--no-paper", *filled)
    read = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert read["thresholds"] == origin
    afib = next(output for output in read["outputs"] if output["name"] == "Afib")
    assert (afib["threshold"] is not None) == bool(options)
    assert afib["auroc"]["records"] is None


def test_a_model_folder_gives_name_and_cost(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = DeepECGSL(RECIPES["smoke"]().network)
    save_network(net, tmp_path / "model", config_of(net, task="77 diagnoses", labels=LABEL_NAMES))
    monkeypatch.setattr("training.commands.evaluate.BATCHES", (1,))
    call(
        "evaluate",
        files / "test.npz",
        "--out",
        tmp_path / "r",
        "--resamples",
        20,
        "--threads",
        1,
        "--model",
        tmp_path / "model",
    )
    read = json.loads((tmp_path / "r" / "evaluation.json").read_text("utf-8"))
    assert read["settings"]["model"] == "DeepECG-SL, 77 diagnoses"
    assert read["resources"]["parameters"] == sum(p.numel() for p in net.parameters())
    assert read["resources"]["latencies"][0]["milliseconds"] > 0


def test_compare_finds_the_better_model(files: Path, tmp_path: Path) -> None:
    said = call("compare", files / "test.npz", files / "noisy.npz", "--resamples", 60, "--out", tmp_path / "c.json")
    assert "too few patients for a test: Brugada" in said
    read = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert set(read["outputs"]) == set(NAMES) - {"Brugada"}
    for output in read["outputs"].values():
        assert output["difference"] < 0
        assert output["p"] <= output["p_holm"]
    macro = read["macro_difference"]
    assert macro["value"] == pytest.approx(np.mean([o["difference"] for o in read["outputs"].values()]))
    assert macro["patients"]["lower"] < macro["value"] < macro["patients"]["upper"] < 0
    same = call("compare", files / "test.npz", files / "test.npz", "--resamples", 20)
    assert "0 outputs differ" in same


def test_fairness_tells_groups_and_differences(files: Path, tmp_path: Path) -> None:
    said = call(
        "fairness", files / "test.npz", "--validation", files / "validation.npz", "--resamples", 40,
        "--out", tmp_path / "f.json",
    )  # fmt: skip
    assert "All outputs, pooled, by sex" in said
    assert "women" in said
    assert "TPR   differs by" in said
    read = json.loads((tmp_path / "f.json").read_text("utf-8"))
    assert {one["attribute"] for one in read} == {"sex", "age", "sex and age"}
    one = call("fairness", files / "test.npz", "--outputs", "Afib", "--resamples", 20, "--by-patient")
    assert one.startswith("Afib, by sex")
    assert "TPR –" in one, "no thresholds, so no rate"


def test_resources_prints_json(tmp_path: Path) -> None:
    net = DeepECGSL(RECIPES["smoke"]().network)
    save_network(net, tmp_path / "model", config_of(net, task="77 diagnoses", labels=LABEL_NAMES))
    read = json.loads(call("resources", tmp_path / "model", "--batches", "1", "--repeats", 2))
    assert read["name"] == "DeepECG-SL, 77 diagnoses"
    assert read["macs"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "{files}/none.npz"], "no predictions at"),
        (["evaluate", "{files}/test.npz", "--validation", "{files}/test.npz"], "250 patients are in both"),
        (["evaluate", "{files}/test.npz", "--rule", "best"], "there is no rule 'best'"),
        (["evaluate", "{files}/test.npz", "--thresholds", "{files}/none.json"], "no thresholds at"),
        (["compare", "{files}/test.npz", "{files}/validation.npz"], "other patients for the same records"),
        (["fairness", "{files}/test.npz", "--validation", "{files}/test.npz"], "split by patient"),
        (["fairness", "{files}/test.npz", "--outputs", "Angina"], "there is no output 'Angina'"),
        (["fairness", "{files}/test.npz", "--group-minimum", "9999"], "no group by sex or age has 9999 patients"),
        (["resources"], "name a model folder, or --architecture"),
        (["resources", "--architecture", "sl", "--batches", "some"], "'some' are no batch sizes"),
    ],
)
def test_errors_are_one_sentence(
    files: Path,
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["deepecg-train", *(a.replace("{files}", str(files)) for a in arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("deepecg-train: ")
    assert sentence in said
