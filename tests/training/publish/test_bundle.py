"""A bundle is what it says: drafted, published, opened, run through OpenVINO; and so is the one that ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch

from agent.core.bundle.limits import Parity
from agent.core.bundle.manifest import Label, Manifest, Quantity
from agent.core.labels import LABEL_NAMES, LABELS
from agent.core.preprocessing import Preprocessing, prepare
from agent.engines.backends.openvino import OpenVinoEngine
from agent.engines.bundles.bundle import UNSIGNED, default_bundle, open_bundle
from agent.engines.compile import Built, SourceFiles
from agent.simulator.demonstration import DEMONSTRATION
from training.evaluation.alerts import MAX_PER_BED_DAY
from training.evaluation.evidence import MIN_LOWER_AUROC, MIN_POSITIVE_PATIENTS
from training.models.ssl import DeepECGSSL
from training.publish.bundle import TOLERANCE, Contents, answers_of, draft, exported, parse_config
from training.publish.contents import LICENCES, golden_windows
from training.publish.export import Network, openvino_from
from training.train.recipes import TINY

MakeContents = Callable[..., Contents]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, alerting: Contents, source: SourceFiles, f32: Built) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "small"
    folder.mkdir()
    (folder / "manifest.json").write_text("of an older bundle")
    folder.with_name("small.old").mkdir()  # left by one that was cut off
    with draft(folder, alerting, source, [f32]) as made:
        made.publish(folder, made.manifest.engines, tested="Run.", readme=["## Engines"])
    assert [path.name for path in folder.parent.iterdir()] == ["small"]
    return folder


def test_a_published_bundle_serves_what_torch_computes(published: Path, alerting: Contents) -> None:
    bundle = open_bundle(published, UNSIGNED)
    p = bundle.manifest.input.preprocessing
    x = prepare(golden_windows(bundle.manifest.input)[5:9], p.rate, p)
    with torch.no_grad():
        expected = torch.sigmoid(alerting.net(torch.from_numpy(x))).numpy()
    assert expected.std() > 0.05, "the answers differ"
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        np.testing.assert_allclose(engine.infer(x), expected, atol=1e-5)
    assert {"weights.safetensors", "weights.json"} < bundle.manifest.files.keys()
    assert parse_config(bundle.read("weights.json")) == alerting.config
    assert (published / "README.md").read_text() == "# nothing\n\n## Engines\n"
    assert bundle.manifest.change.how_tested.endswith("of the same. Run.")
    assert bundle.manifest.source is not None
    assert bundle.manifest.source.files == ("model.onnx", "model.xml", "model.bin")


def test_a_draft_that_is_not_published_leaves_nothing(
    tmp_path: Path, alerting: Contents, source: SourceFiles, f32: Built, wrong: Built
) -> None:
    folder = tmp_path / "x"
    with draft(folder, alerting, source, [f32, wrong]) as made:
        (new,) = tmp_path.iterdir()
        assert new == made.path
        assert {"model-int8w.xml", "model.xml"} < made.manifest.files.keys()
        with pytest.raises(ValueError, match="no engine is left"):
            made.publish(folder, [])
    assert not list(tmp_path.iterdir())


def test_files_of_engines_that_are_left_out_go_and_the_source_stays(
    tmp_path: Path, alerting: Contents, source: SourceFiles, f32: Built, wrong: Built
) -> None:
    folder = tmp_path / "x"
    with draft(folder, replace(alerting, keep_weights=False), source, [f32, wrong]) as made:
        made.publish(folder, made.manifest.engines[:1])
    names = {path.name for path in folder.iterdir()}
    assert not {"model-int8w.xml", "model-int8w.bin", "weights.safetensors"} & names
    assert {"model.onnx", "model.xml", "model.bin"} < names
    with draft(folder, alerting, source, [f32, wrong]) as made:
        made.publish(folder, made.manifest.engines[1:])
    names = {path.name for path in open_bundle(folder, UNSIGNED).path.iterdir()}
    assert {"model-int8w.xml", "model-int8w.bin", "model.onnx", "model.xml", "model.bin"} < names


def test_an_engine_beyond_the_gate_is_never_published(
    tmp_path: Path, alerting: Contents, source: SourceFiles, f32: Built
) -> None:
    with draft(tmp_path / "x", alerting, source, [f32]) as made:
        bad = made.manifest.engines[0].model_copy(update={"parity": Parity(windows=9, probability_max=0.2)})
        with pytest.raises(ValueError, match="fails the bundle's own gate"):
            made.publish(tmp_path / "x", [bad])
    assert not list(tmp_path.iterdir())


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path, alerting: Contents, source: SourceFiles, f32: Built) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is there and is no bundle"), draft(tmp_path, alerting, source, [f32]):
        pass
    assert (tmp_path / "thesis.tex").is_file()


def test_the_batch_is_dynamic(f32: Built) -> None:
    xml, weights = f32.files.values()
    network = Network(openvino.Core().read_model(xml, openvino.Tensor(np.frombuffer(weights, np.uint8))))
    x = np.random.default_rng(0).normal(0, 50, (5, 12, 500)).astype(np.float32)
    together = network.infer(x)
    assert together.shape == (5, 77)
    np.testing.assert_allclose(np.concatenate([network.infer(x[i : i + 1]) for i in range(5)]), together, atol=1e-5)


def test_wrong_labels_are_refused(tmp_path: Path, alerting: Contents, source: SourceFiles, f32: Built) -> None:
    few = replace(alerting, labels=alerting.labels[:1])
    with pytest.raises(ValueError, match="77 outputs, but 1 labels"), draft(tmp_path / "x", few, source, [f32]):
        pass


def test_a_quantity_is_in_its_scale_in_torch_and_in_the_engine(make_contents: MakeContents) -> None:
    net = DeepECGSSL(replace(TINY, labels=2))
    net.initialise(torch.Generator().manual_seed(3))
    number = Label(name="LVEF", severity="normal", quantity=Quantity(unit="%", scale=100.0))
    other = number.model_copy(update={"name": "QRS", "quantity": Quantity(unit="ms", scale=1000.0)})
    contents = replace(make_contents(), net=net.eval(), labels=(number, other))
    x = np.random.default_rng(0).normal(0, 0.5, (3, 12, 500)).astype(np.float32)
    with torch.no_grad():
        expected = (net(torch.from_numpy(x)) / torch.tensor([100.0, 1000.0])).numpy()
    np.testing.assert_array_equal(answers_of(net, x, contents.labels), expected)
    found = Network(openvino_from(exported(contents))).infer(x)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-3)
    with pytest.raises(ValueError, match="not with both"):
        answers_of(net, x, (number, Label(name="Afib", severity="pathological")))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"format": "deepecg-model/1", "family": "cl"}'])
def test_a_config_that_is_none(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"weights\.json is no config of a network; name the model folder"):
        parse_config(content)


def test_golden_windows_are_repeatable_and_whole() -> None:
    windows = golden_windows()
    assert windows.shape[1:] == (12, 2500)
    assert 8 <= len(windows) <= 16
    assert np.array_equal(windows, golden_windows())
    assert np.isfinite(windows).all()
    assert 0.1 < np.abs(windows).max() < 10, "millivolts"
    assert any(not window[6:].any() for window in windows), "a bed without chest leads is among them"


# The bundle that ships


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return open_bundle(default_bundle()).manifest  # checks sizes and checksums of every file


def test_shipped_bundle_has_the_labels_in_order(manifest: Manifest) -> None:
    assert tuple(label.name for label in manifest.labels) == LABEL_NAMES
    assert all(a.severity == b.severity.value for a, b in zip(manifest.labels, LABELS, strict=True))
    assert "README.md" in manifest.files
    assert "demonstration" in manifest.statement.lower()
    assert "not the published" in manifest.statement
    assert sum(entry.size for entry in manifest.files.values()) < 25e6


def test_shipped_bundle_gives_its_golden_answers() -> None:
    bundle = open_bundle(default_bundle())
    p = bundle.manifest.input.preprocessing
    assert p == Preprocessing()
    (exact,) = (entry for entry in bundle.manifest.engines if entry.precision == "f32")
    with OpenVinoEngine(bundle, exact) as engine:
        found = engine.infer(prepare(bundle.golden_windows, p.rate, p))
    assert float(np.abs(found - bundle.golden_probabilities).max()) < bundle.manifest.golden.tolerance == TOLERANCE


def test_shipped_rules_stand_on_evidence(manifest: Manifest) -> None:
    for label in manifest.labels:
        if label.evidence is not None:
            assert label.evidence.positive_patients >= MIN_POSITIVE_PATIENTS, label.name
            assert label.evidence.lower >= MIN_LOWER_AUROC, label.name
            assert label.evidence.lower <= label.evidence.auroc <= label.evidence.upper, label.name
        if label.rule is not None:
            assert label.evidence is not None, label.name
            assert label.severity == "pathological", label.name
            assert label.rule.false_alerts_per_bed_day <= MAX_PER_BED_DAY, label.name
            assert label.rule.false_alerts_upper > label.rule.false_alerts_per_bed_day
            assert label.rule.negative_hours >= 12, label.name


def test_shipped_training_names_no_share_alike_source_and_holds_out_the_demonstration(manifest: Manifest) -> None:
    assert set(manifest.training.datasets) <= set(LICENCES)
    text = json.dumps(manifest.training.datasets).lower()
    assert "brugada" not in text
    assert "-sa" not in text
    assert {record.id for record in DEMONSTRATION} <= set(manifest.training.held_out)
