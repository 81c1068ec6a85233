"""The commands of ``labels`` from table to scores, on a few made-up reports."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from agent.core.labels import LABEL_NAMES
from training.cli import app
from training.commands.labels import folds_of

CODES = {
    "Vorhofflimmern, kompletter LSB": "{'AFIB': 0.0, 'CLBBB': 100.0}",
    "Sinusrhythmus, kein Schenkelblock": "{'SR': 0.0, 'NORM': 100.0}",
    "Sinusrhythmus, Linksschenkelblock": "{'SR': 0.0, 'CLBBB': 100.0}",
    "Vorhofflimmern, sonst unauffälliges EKG": "{'AFIB': 0.0}",
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reports") / "reports.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ecg_id", "patient_id", "report", "scp_codes", "strat_fold"])
        for i in range(80):
            text, codes = list(CODES.items())[i % 4]
            writer.writerow([i, 1000 + i, text, codes, i // 4 % 4 + 1])
    return path


def call(*arguments: str | Path) -> str:
    threads = torch.get_num_threads()
    result = CliRunner().invoke(app, ["labels", *(str(a) for a in arguments)], catch_exceptions=False)
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_extract_one_report() -> None:
    told = call("extract", "Vorhofflimmern, kein Hinweis auf LVH")
    assert "Afib: yes; “Vorhofflimmern” [de]" in told
    assert "Left ventricular hypertrophy: no; denied: “LVH”" in told
    as_json = json.loads(call("extract", "--json", "--language", "fr", "Pas d'HVG"))
    assert as_json["labels"] == {"Left ventricular hypertrophy": 0}
    assert as_json["mentions"][0]["status"] == "negated"
    assert as_json["mentions"][0]["span"] == [6, 9]
    assert "Brugada" in call("extract", "--closed", "Vorhofflimmern, LSB")
    assert call("extract", "xyz") == "nothing recognised\n"


def test_extract_a_table(reports: Path, tmp_path: Path) -> None:
    told = call("extract", reports, "--out", tmp_path / "l.csv", "--mentions", tmp_path / "m.jsonl")
    assert "80 reports" in told
    with (tmp_path / "l.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", *LABEL_NAMES]
    assert [row["Afib"] for row in rows[:4]] == ["1", "0", "0", "1"]
    assert [row["Left bundle branch block"] for row in rows[:4]] == ["1", "0", "1", "0"]
    assert rows[0]["Brugada"] == ""
    first = json.loads((tmp_path / "m.jsonl").read_text("utf-8").splitlines()[0])
    assert [m["finding"] for m in first["mentions"]] == ["atrial_fibrillation", "left_bundle_branch_block"]
    assert "Vorhofflimmern" not in (tmp_path / "m.jsonl").read_text("utf-8")  # places, not texts


def test_train_classify_score(reports: Path, tmp_path: Path) -> None:
    arguments = [
        "--folds",
        "1-2",
        "--validation",
        "3",
        "--layers",
        "1",
        "--width",
        "32",
        "--epochs",
        "12",
        "--batch",
        "8",
    ]
    told = call("train", reports, tmp_path, *arguments, "--rate", "0.005")
    assert "of 77 labels learnt" in told
    model = tmp_path / "model"
    said = call("classify", model, "Vorhofflimmern, kompletter LSB")
    assert "Afib" in said
    assert "Left bundle branch block" in said
    assert "Sinusal" not in said
    call("classify", model, reports, "--out", tmp_path / "c.csv")
    with (tmp_path / "c.csv").open(encoding="utf-8", newline="") as file:
        assert [row["Afib"] for row in csv.DictReader(file)][:4] == ["1", "0", "0", "1"]
    told = call(
        "score", reports, "--folds", "4", "--classifier", model, "--out", tmp_path / "s.json", "--resamples", "20"
    )
    assert "== union ==" in told
    scores = json.loads((tmp_path / "s.json").read_text("utf-8"))["scores"]
    for reader in ("dictionary", "classifier", "union"):
        afib = next(s for s in scores[reader]["all"]["labels"] if s["label"] == "Afib")
        assert (afib["tp"], afib["fp"], afib["fn"]) == (10, 0, 0), reader


def test_train_without_folds_divides_by_patient(reports: Path, tmp_path: Path) -> None:
    arguments = ["--layers", "1", "--width", "16", "--epochs", "1"]
    assert "of 77 labels learnt" in call("train", reports, tmp_path, *arguments)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_import_a_published_folder(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sinus", "rhythm"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words), num_labels=77, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_text("\n".join(words) + "\n")
    assert "77 labels" in call("import", tmp_path / "theirs", tmp_path / "ours")
    call("classify", tmp_path / "ours", "sinus rhythm")


def test_folds() -> None:
    assert folds_of("1-3, 7") == {1, 2, 3, 7}
    with pytest.raises(ValueError, match="write them like 1-6,8"):
        folds_of("a-b")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["extract", "nowhere.csv"], "no file nowhere.csv; give a CSV file, or a report in quotes"),
        (["extract", "{reports}"], "name them with --out LABELS.csv or --mentions"),
        (["extract", "--language", "xx", "LSB"], "there is no dictionary for 'xx'"),
        (["score", "{reports}", "--folds", "9"], "no reports with labels to score against"),
        (["train", "{reports}", "out", "--folds", "1"], "--folds and --validation belong together"),
        (
            ["train", "{reports}", "out", "--folds", "1-2", "--validation", "2"],
            "fold 2 is both learnt from and validated on",
        ),
        (["classify", "{folder}", "LSB"], "name the folder of a report classifier"),
    ],
)
def test_errors_are_one_sentence(reports: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    filled = [a.replace("{reports}", str(reports)).replace("{folder}", str(tmp_path)) for a in arguments]
    error = CliRunner().invoke(app, ["labels", *filled]).exception
    assert isinstance(error, ValueError | FileNotFoundError)
    assert sentence in str(error)
