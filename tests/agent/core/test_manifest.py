"""The one contract between training and agent: what it refuses, and that the shipped one fulfils it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.core.ecg import LEADS
from agent.core.manifest import Manifest
from agent.engines.bundle import default_bundle


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((default_bundle() / "manifest.json").read_text(encoding="utf-8"))
    return document


def test_the_shipped_manifest_comes_back_as_it_was(shipped: dict[str, Any]) -> None:
    manifest = Manifest.model_validate(shipped)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert len(manifest.labels) == 77
    assert set(manifest.input.required_leads) <= set(LEADS)
    assert manifest.model_id == f"{manifest.name}/{manifest.version}"


def test_a_label_alerts_only_with_evidence(shipped: dict[str, Any]) -> None:
    for label in Manifest.model_validate(shipped).labels:
        if label.rule is not None:
            assert label.evidence is not None
            assert label.evidence.positive_patients >= 20
            assert label.evidence.lower >= 0.85
            assert label.rule.false_alerts_per_bed_day <= 1.0
            assert label.severity != "normal"


def test_no_share_alike_data_is_in_the_weights(shipped: dict[str, Any]) -> None:
    manifest = Manifest.model_validate(shipped)
    assert not any("brugada" in name.lower() for name in manifest.training.datasets)
    assert not any("-SA" in licence for licence in manifest.training.datasets.values())


def _with_evidence(document: dict[str, Any]) -> dict[str, Any]:
    label: dict[str, Any] = next(label for label in document["labels"] if label.get("rule"))
    return label


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda d: d.update(surprise=1), "surprise"),
    "path": (lambda d: d["files"].update({"../etc": {"sha256": "0" * 64, "size": 1}}), "plain file name"),
    "folder": (lambda d: d["files"].update({"a/b": {"sha256": "0" * 64, "size": 1}}), "plain file name"),
    "no checksum": (lambda d: d["files"].pop(d["golden"]["windows"]), "no checksum"),
    "bad checksum": (lambda d: d["files"].update({"x": {"sha256": "abc", "size": 1}}), "sha256"),
    "twice": (lambda d: d["labels"].append(d["labels"][0]), "same name"),
    "no labels": (lambda d: d.update(labels=[]), "labels"),
    "no evidence": (lambda d: _with_evidence(d).update(evidence=None), "no evidence"),
    "release": (lambda d: _with_evidence(d)["rule"].update(release=1.0, threshold=0.5), "release"),
    "infinite": (lambda d: _with_evidence(d)["rule"].update(negative_hours=float("inf")), "negative_hours"),
    "later schema": (lambda d: d.update(schema_version=2), "schema_version"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_refused(shipped: dict[str, Any], name: str) -> None:
    change, said = CHANGES[name]
    document = copy.deepcopy(shipped)
    change(document)
    with pytest.raises(ValidationError, match=said):
        Manifest.model_validate(document)


def test_a_truncated_manifest_is_refused(shipped: dict[str, Any], tmp_path: Path) -> None:
    text = json.dumps(shipped)
    for end in range(0, len(text), max(1, len(text) // 50)):
        with pytest.raises(ValidationError):
            Manifest.model_validate_json(text[:end])
