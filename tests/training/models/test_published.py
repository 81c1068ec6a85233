"""The shipped copies against the reference's files, and the permutation against both lists of names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agent.core.labels import LABEL_NAMES, LABELS, SSL_INDEX_FROM_SL, SSL_ORDER, index_of, normalised
from training.models import published


def reference(fixtures_dir: Path, name: str) -> dict:
    return json.loads((fixtures_dir / f"{name}.json").read_text("utf-8"))


def test_names_are_those_of_the_reference_and_ours(fixtures_dir: Path) -> None:
    theirs = reference(fixtures_dir, "labels")
    assert [normalised(n) for n in theirs["sl_order"]] == [normalised(n) for n in LABEL_NAMES]
    assert [normalised(n) for n in theirs["ssl_order"]] == [normalised(n) for n in SSL_ORDER]


def test_permutation_is_a_bijection_that_maps_names_to_names(fixtures_dir: Path) -> None:
    theirs = reference(fixtures_dir, "labels")
    conversion = theirs["wcr_column_conversion"]
    assert list(SSL_INDEX_FROM_SL) == conversion
    assert sorted(conversion) == list(range(77))
    for sl, ssl in zip(theirs["sl_order"], np.array(theirs["ssl_order"])[conversion], strict=True):
        assert normalised(sl) == normalised(str(ssl))


@pytest.mark.parametrize(
    "spelling", ["ST depression (lateral - I, aVL, V5-V6)", "st depression(lateral\u00a0- I,avL,V5–V6)"]
)
def test_irregular_spellings_are_one_label(spelling: str) -> None:
    assert index_of(spelling) == index_of("ST depression (lateral - I, avL, V5-V6)")


def test_ssl_to_sl_moves_each_probability_to_its_name() -> None:
    ssl = np.zeros((2, 77), np.float32)
    ssl[0, SSL_ORDER.index("Afib")] = 0.9
    ssl[1, SSL_ORDER.index("Brugada")] = 0.8
    sl = published.ssl_to_sl(ssl)
    assert sl[0, index_of("Afib")] == np.float32(0.9)
    assert sl[1, index_of("Brugada")] == np.float32(0.8)
    assert np.count_nonzero(sl) == 2
    assert not np.shares_memory(sl, ssl)
    with pytest.raises(ValueError, match="biomarker head"):
        published.ssl_to_sl(ssl[:, :1])


def test_thresholds_are_the_references(fixtures_dir: Path) -> None:
    tasks = reference(fixtures_dir, "77_tasks_final")
    bert = reference(fixtures_dir, "labels")["bert_thresholds"]
    for i, label in enumerate(LABELS):
        task = tasks["PERICARDITIS" if label.name == "Acute pericarditis" else label.name]
        assert published.thresholds_sl()[i] == task["SL_sens_spec_threshold"]
        assert published.thresholds_ssl()[i] == task["SSL_sens_spec_threshold"]
        assert published.bert_thresholds()[i] == bert[label.name]["threshold"]
    assert published.bert_thresholds().min() == 0.22
    assert published.bert_thresholds().max() == 0.65


def test_biomarkers_are_the_references(fixtures_dir: Path) -> None:
    theirs = reference(fixtures_dir, "digital_biomarker_final")
    assert set(published.BIOMARKERS) == set(theirs)
    for network in ("SL", "SSL"):
        ours = published.biomarker_thresholds(network)
        assert ours == {name: entry[f"{network}_sens_spec_threshold"] for name, entry in theirs.items()}


def test_a_thresholded_example_gives_its_labels() -> None:
    """Of an SSL output: .01 is above "Afib"'s SSL threshold (.004) and far below "Sinusal"'s (.95)."""
    ssl = np.zeros((1, 77))
    ssl[0, SSL_ORDER.index("Afib")] = 0.01
    ssl[0, SSL_ORDER.index("Sinusal")] = 0.01
    said = published.labels_at(published.ssl_to_sl(ssl), published.thresholds_ssl())
    assert [LABELS[i].name for i in np.flatnonzero(said[0] == 1)] == ["Afib"]
    assert (said[0] >= 0).all()


def test_a_label_without_threshold_is_unknown() -> None:
    thresholds = published.thresholds_ssl().copy()
    thresholds[index_of("Brugada")] = np.nan
    said = published.labels_at(np.ones((3, 77)), thresholds)
    assert said.shape == (3, 77)
    assert (said[:, index_of("Brugada")] == -1).all()
    assert (np.delete(said, index_of("Brugada"), axis=1) == 1).all()


def test_shared_arrays_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        published.thresholds_sl()[0] = 0.0
