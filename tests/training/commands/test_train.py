"""Pretrain, fine-tune and predict by command, on a dataset that is prepared from real recordings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from training.cli import app
from training.data import WindowTable
from training.evaluation.cases import Cases
from training.models.weights import read_config
from training.train.folds import usable


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output if code == 0 else str(result.exception)


@pytest.fixture(scope="module")
def dataset(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve records of PTB-XL and four of the Brugada set."""
    folder = tmp_path_factory.mktemp("data")
    place = folder / "ptbxl500" / "records500"
    place.mkdir(parents=True)
    for i in range(1, 13):
        for path in (data_dir / "ptbxl500" / "records500").glob(f"{i:05d}_hr[._]*"):
            (place / path.name).symlink_to(path)
    shutil.copy(data_dir / "ptbxl500" / "ptbxl_database.csv", folder / "ptbxl500")
    files = folder / "brugada_huca" / "files"
    files.mkdir(parents=True)
    shutil.copy(data_dir / "brugada_huca" / "metadata.csv", folder / "brugada_huca")
    for path in sorted((data_dir / "brugada_huca" / "files").glob("*.hea"))[:4]:
        for part in path.parent.glob(f"{path.stem}[._]*"):
            (files / part.name).symlink_to(part)
    call("prepare", str(folder / "dataset"), str(folder))
    return folder / "dataset"


@pytest.mark.data
def test_pretrain_finetune_predict(dataset: Path, tmp_path: Path) -> None:
    data = ["--dataset", str(dataset), "--threads", "1"]
    call("pretrain", str(tmp_path / "pre"), "--recipe", "smoke-pretrain", "--fold", "0,1,all", *data)
    for name in ("0", "1", "all"):
        assert read_config(tmp_path / "pre" / name / "model").family == "ssl-pretraining"
    start = str(tmp_path / "pre")
    call("finetune", str(tmp_path / "ssl"), "--recipe", "smoke-ssl", "--from", start, "--fold", "0,1", *data)
    out = tmp_path / "predictions.npz"
    call("predict", str(tmp_path / "ssl"), "--out", str(out), *data)
    cases, table = Cases.load(out), WindowTable.open(dataset)
    folds = table.folds(3)
    unseen = (folds >= 0) & (folds < 2) & usable(table)
    assert len(cases) == unseen.sum()
    assert set(cases.patient) == set(table.patient[unseen])
    assert np.isfinite(cases.probability).all()
    assert set(cases.source) == {"ptbxl500"}
    call("predict", str(tmp_path / "ssl" / "0" / "model"), "--out", str(out), *data)
    assert len(Cases.load(out)) == usable(table).sum()
    assert json.loads((tmp_path / "ssl" / "run.json").read_text()) == {"recipe": "smoke-ssl", "folds": 3}
    said = call("train", str(tmp_path / "ssl"), "--recipe", "smoke", "--fold", "0", *data, code=1)
    assert "take another folder" in said


@pytest.mark.data
def test_share_alike_sources_are_used_only_when_asked_for(dataset: Path) -> None:
    table = WindowTable.open(dataset)
    assert set(table.sources) == {"ptbxl500", "brugada_huca"}
    assert set(np.array(table.sources)[table.source[usable(table)]]) == {"ptbxl500"}
    assert usable(table, share_alike=True).all()
    with pytest.raises(ValueError, match="do not ship the weights"):
        usable(table, "brugada_huca")
    with pytest.raises(ValueError, match="no source 'mitdb'; it has"):
        usable(table, "mitdb")
    assert usable(table, "brugada_huca", share_alike=True).sum() == np.sum(
        table.source == table.sources.index("brugada_huca")
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pretrain", "RUN", "--recipe", "demo"], "no recipe of pretraining"),
        (["train", "RUN", "--recipe", "demo-pretrain"], "give it to deepecg-train pretrain"),
        (["finetune", "RUN", "--recipe", "demo-pretrain", "--from", "x"], "give it to deepecg-train pretrain"),
        (["train", "RUN"], "deepecg-train prepare"),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    filled = [str(tmp_path / "run") if a == "RUN" else a for a in arguments]
    assert sentence in call(*filled, "--dataset", str(tmp_path / "none"), code=1)
