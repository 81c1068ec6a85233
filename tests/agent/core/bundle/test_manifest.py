"""The one contract between training and agent: what it refuses, and that the shipped one fulfils it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.core.bundle.manifest import Label, Manifest, Quantity, schema
from agent.core.ecg import LEADS
from agent.engines.bundles.bundle import default_bundle

ROOT = Path(__file__).resolve().parents[4]


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
    "unknown key within": (lambda d: d["limits"].update(surprise=1), "surprise"),
    "path": (lambda d: d["files"].update({"../etc": {"sha256": "0" * 64, "size": 1}}), "plain file name"),
    "folder": (lambda d: d["files"].update({"a/b": {"sha256": "0" * 64, "size": 1}}), "plain file name"),
    "no checksum": (lambda d: d["files"].pop(d["golden"]["windows"]), "no checksum"),
    "bad checksum": (lambda d: d["files"].update({"x": {"sha256": "abc", "size": 1}}), "sha256"),
    "twice": (lambda d: d["labels"].append(d["labels"][0]), "same name"),
    "no labels": (lambda d: d.update(labels=[]), "labels"),
    "no evidence": (lambda d: _with_evidence(d).update(evidence=None), "no evidence"),
    "release": (lambda d: _with_evidence(d)["rule"].update(release=1.0, threshold=0.5), "release"),
    "infinite": (lambda d: _with_evidence(d)["rule"].update(negative_hours=float("inf")), "negative_hours"),
    "later schema": (lambda d: d.update(schema_version=3), "schema_version"),
    "earlier schema": (lambda d: d.update(schema_version=1), "schema_version"),
    "hidden file": (lambda d: d["files"].update({".x": {"sha256": "0" * 64, "size": 1}}), "plain file name"),
    "terminal": (lambda d: d["files"].update({"a\x1b[2J": {"sha256": "0" * 64, "size": 1}}), r"\\x1b.* plain file"),
    "signature": (lambda d: d["files"].update({"Manifest.SIG": {"sha256": "0" * 64, "size": 1}}), "signature's"),
    "case": (lambda d: d["files"].update({"Model.bin": d["files"]["model.bin"]}), "differ in case only"),
    "many files": (
        lambda d: d["files"].update({f"f{i}": d["files"]["model.bin"] for i in range(300)}),
        "more than 256",
    ),
    "version": (lambda d: d.update(version="../1"), "version"),
    "words for a version": (lambda d: d.update(version="latest"), "version"),
    "lead": (lambda d: d["input"].update(accepted_leads=["I"]), "II is required but not accepted"),
    "no source": (lambda d: d.update(source={}), "names an ONNX file, an IR, or both"),
    "half an IR": (lambda d: d["source"].update(ir=["model.xml"]), "two files"),
    "opset": (lambda d: d["source"].update(onnx="", opset=18), "opset belong together"),
    "source without checksum": (lambda d: d["source"].update(onnx="a.onnx", opset=18), "no checksum for a.onnx"),
    "batches": (lambda d: d["engines"][0].update(batches=[8, 1]), "ascend"),
    "GPU of a CPU": (lambda d: d["engines"][0]["target"].update(driver="570.1"), "has no GPU"),
    "CPU of a GPU": (
        lambda d: d["engines"][0].update(target={"kind": "gpu", "cpu_features": ["avx2"]}),
        "cpu_features",
    ),
    "more flips than windows": (lambda d: d["engines"][0]["parity"].update(windows=3, flips=4), "more windows flip"),
    "quantity with a threshold": (
        lambda d: d["labels"][0].update(evidence=None, threshold=0.5, quantity={"unit": "%", "scale": 100.0}),
        "a quantity is no finding",
    ),
    "quantity without a scale": (
        lambda d: d["labels"][0].update(evidence=None, quantity={"unit": "%", "scale": 0.0}),
        "scale",
    ),
    "measured on nothing": (lambda d: d["engines"][0]["parity"].update(windows=0), "measured on no windows"),
    "failed gate": (lambda d: d["limits"].update(probability_max=1e-7), "openvino .* engine fails .* probability_max"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_refused(shipped: dict[str, Any], name: str) -> None:
    change, said = CHANGES[name]
    document = copy.deepcopy(shipped)
    change(document)
    with pytest.raises(ValidationError, match=said):
        Manifest.model_validate(document)


def test_an_engine_that_was_never_run_passes_the_gate_and_says_so(shipped: dict[str, Any]) -> None:
    document = copy.deepcopy(shipped)
    document["engines"][0]["parity"] = {}
    engine = Manifest.model_validate(document).engines[0]
    assert (engine.parity.windows, engine.parity.probability_max) == (0, None)


def test_engines_are_judged_by_the_outputs_that_the_ward_is_shown(shipped: dict[str, Any]) -> None:
    manifest = Manifest.model_validate(shipped)
    assert {manifest.labels[i].name for i in manifest.counted} >= {"Afib", "Sinusal"}
    assert all(manifest.labels[i].evidence is not None for i in manifest.counted)
    document = copy.deepcopy(shipped)
    for label in document["labels"]:
        label.update(evidence=None, rule=None)
    assert Manifest.model_validate(document).counted == tuple(range(77))


def test_a_label_is_cut_at_its_thresholds(shipped: dict[str, Any]) -> None:
    label = _with_evidence(copy.deepcopy(shipped))
    rule = label["rule"]["threshold"]
    assert Label.model_validate(label).cuts == (rule,)
    assert Label.model_validate(label | {"threshold": 0.25}).cuts == tuple(sorted((0.25, rule)))
    assert Label(name="x", severity="normal").cuts == (0.5,)
    assert Label(name="LVEF", severity="normal", quantity=Quantity(unit="%", scale=100.0)).cuts == ()


# The JSON Schema


def test_the_schema_knows_every_key_and_no_other(shipped: dict[str, Any]) -> None:
    document = schema()

    def walk(node: dict[str, Any], value: Any, where: str) -> None:
        if "$ref" in node:
            node = document["$defs"][node["$ref"].removeprefix("#/$defs/")]
        if "anyOf" in node:
            if value is not None:
                walk(next(one for one in node["anyOf"] if one.get("type") != "null"), value, where)
        elif "properties" in node:
            assert node["additionalProperties"] is False, where
            assert value.keys() <= node["properties"].keys(), where
            assert set(node.get("required", ())) <= value.keys(), where
            for key, inner in value.items():
                walk(node["properties"][key], inner, f"{where}.{key}")
        elif "items" in node:
            for inner in value:
                walk(node["items"], inner, where)

    walk(document, shipped, "")
    assert document["$schema"].endswith("2020-12/schema")
