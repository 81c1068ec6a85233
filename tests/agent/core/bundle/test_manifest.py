"""The one contract between training and agent: what it refuses, and that the shipped one fulfils it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.core.bundle.manifest import Label, Limits, Manifest, Parity, Quantity, parse, schema
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


def test_a_truncated_manifest_is_refused(shipped: dict[str, Any]) -> None:
    text = json.dumps(shipped).encode()
    for end in range(0, len(text), max(1, len(text) // 50)):
        with pytest.raises(ValueError, match=r"^(line|byte|key)"):
            parse(Manifest, text[:end])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' is there twice"),
        (b'{"x": {"b": {}, "b": {}}}', "key 'b' is there twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b"9" * 10_000, "10000 digits"),
        (b'{"name": "\xff"}', "byte 10 is not UTF-8"),
        ('{"name": "é"}'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"name": "\\ud800"}', "invalid JSON"),
        (b"[]", "should be an object"),
        (b"null", "should be an object"),
        (b'{"schema_version": 1}', "schema 1, and this version reads schema 2"),
        (b'{"schema_version": "2"}', "schema_version"),
    ],
)
def test_json_that_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse(Manifest, content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_manifest_cannot_fill_the_log(shipped: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="key 'kkk") as caught:
        parse(Manifest, json.dumps(shipped | {"k" * 1_000_000: 1}).encode())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("version",), 1),
        (("training", "patients"), "724"),
        (("training", "patients"), 724.0),
        (("golden", "tolerance"), "0.0001"),
        (("golden", "tolerance"), True),
        (("labels", 0, "evidence", "auroc"), 1e999),
        (("files", "model.bin", "size"), None),
        (("engines", 0, "files"), "model.xml"),
    ],
)
def test_a_value_of_another_type_is_refused(shipped: dict[str, Any], where: tuple[Any, ...], value: object) -> None:
    document = copy.deepcopy(shipped)
    inner = document
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    content = json.dumps(document).replace("Infinity", "1e999").encode()
    with pytest.raises(ValueError, match=".".join(map(str, where))):
        parse(Manifest, content)


# The gate


AT_THE_LIMITS = {
    "probability_max": 0.1,
    "probability_p999": 0.03,
    "logit_max": 1e-4,
    "flips": 5,
    "auroc_change": -0.002,
    "alerts_differ": 0,
}


@pytest.mark.parametrize(
    ("parity", "said"),
    [
        (AT_THE_LIMITS, ""),
        ({"auroc_change": 0.3}, ""),
        ({}, ""),
        ({"probability_max": 0.101}, "probability_max is 0.101, above 0.1"),
        ({"probability_p999": 0.031}, "probability_p999"),
        ({"logit_max": 1.1e-4}, "logit_max is 0.00011, above 0.0001"),
        ({"flips": 6}, "flips_share is 0.006, above 0.005"),
        ({"windows": 20, "flips": 1}, ""),
        ({"windows": 20, "flips": 2}, "flips_share is 0.1"),
        ({"auroc_change": -0.0021}, "auroc_drop"),
        ({"alerts_differ": 1}, "alerts_differ is 1, above 0"),
    ],
)
def test_the_gate_names_the_limit_that_is_broken(parity: dict[str, float], said: str) -> None:
    measured = Parity.model_validate({"windows": 1000, **parity})
    broken = Limits().broken_by(measured)
    assert said in broken
    assert bool(said) == bool(broken)


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
