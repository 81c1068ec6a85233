"""What the published files' outputs mean, held against the reference's own lists and thresholds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.core.labels import LABEL_NAMES, SSL_ORDER, normalised
from training.importers.names import WeightsError
from training.importers.tasks import labels_of, task_of, thresholds_for

PUBLISHED = [
    ("EfficientNetV2_77_Classes/efficientnet_deepecg_unscaled.pt", 77, "77 diagnoses"),
    ("EfficientNetV2_LVEF_equal_under_40/lvef_under_equal_40.pt", 1, "lvef_40"),
    ("EfficientNetV2_LVEF_under_50/lvef_under_50.pt", 1, "lvef_50"),
    ("EfficientNetV2_AFIB_5Y/afib_5y.pt", 1, "af_5y"),
    ("EfficientNetV2_SL_Model_Tunable/sl_model.h5", 77, "77 diagnoses"),
    ("WCR_77_Classes/wcr_77_classes.pt", 77, "77 diagnoses"),
    ("WCR_AFIB_5Y/wcr_afib_5y.pt", 1, "af_5y"),
    ("WCR_LVEF_equal_under_40/wcr_lvef_equal_under_40.pt", 1, "lvef_40"),
    ("WCR_LVEF_under_50/wcr_lvef_under_50.pt", 1, "lvef_50"),
    ("anywhere/WCR_LQTS_type.pt", 1, "lqts_type"),
    ("anywhere/lqts.pt", 1, "lqts"),
    ("anywhere/LVEF_MSE_SL.pt", 1, "lvef"),
    ("EfficientNetV2_AFIB_5Y/model.pt", 1, "af_5y"),
    ("anywhere/lvef_under_50.pt", 2, "lvef_50"),
    ("anywhere/model.pt", 77, "77 diagnoses"),
]


@pytest.mark.parametrize(("name", "outputs", "task"), PUBLISHED)
def test_published_names_say_the_task(tmp_path: Path, name: str, outputs: int, task: str) -> None:
    assert task_of(tmp_path / name, outputs) == task


@pytest.mark.parametrize(("name", "outputs"), [("model.pt", 1), ("wcr_77_classes.pt", 5), ("lvef_40.pt", 3)])
def test_what_no_name_says_must_be_given(tmp_path: Path, name: str, outputs: int) -> None:
    with pytest.raises(WeightsError, match="pass --task"):
        task_of(tmp_path / name, outputs)


def test_each_network_has_its_order() -> None:
    assert labels_of("sl", "77 diagnoses", None) == LABEL_NAMES
    assert labels_of("ssl", "77 diagnoses", None) == SSL_ORDER
    assert labels_of("ssl", "77 diagnoses", "sl") == LABEL_NAMES
    assert labels_of("ssl", "lvef_40", None) == ("LVEF ≤ 40",)
    assert labels_of("ssl", "brugada", None) is None


@pytest.mark.parametrize("family", ["sl", "ssl"])
def test_thresholds_of_the_diagnoses_go_with_their_names(fixtures_dir: Path, family: str) -> None:
    theirs = json.loads((fixtures_dir / "77_tasks_final.json").read_text("utf-8"))
    by_name = {normalised(name): entry[f"{family.upper()}_sens_spec_threshold"] for name, entry in theirs.items()}
    by_name[normalised("Acute pericarditis")] = by_name[normalised("PERICARDITIS")]
    labels = LABEL_NAMES if family == "sl" else SSL_ORDER
    found = thresholds_for(family, "77 diagnoses", labels)  # type: ignore[arg-type]
    assert found == tuple(by_name[normalised(label)] for label in labels)
    assert labels != LABEL_NAMES or family == "sl"


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("lvef_40", "LVEF ≤ 40"),
        ("lvef_50", "LVEF < 50"),
        ("af_5y", "iAF5"),
        ("lqts", "LQTS"),
        ("lqts_type", "LQTS TYPE"),
    ],
)
def test_thresholds_of_the_biomarkers(fixtures_dir: Path, task: str, name: str) -> None:
    theirs = json.loads((fixtures_dir / "digital_biomarker_final.json").read_text("utf-8"))
    for family in ("sl", "ssl"):
        labels = labels_of(family, task, None)  # type: ignore[arg-type]
        assert labels == (name,)
        found = thresholds_for(family, task, labels)  # type: ignore[arg-type]
        assert found == (theirs[name][f"{family.upper()}_sens_spec_threshold"],)


def test_other_tasks_have_none() -> None:
    assert thresholds_for("sl", "lvef", ("LVEF",)) is None
    assert thresholds_for("ssl", "brugada", ("Brugada",)) is None
    assert thresholds_for("ssl-pretraining", "pretraining", ()) is None
