"""A bundle is what it says: written, opened, run through OpenVINO; and so is the one that ships."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.core.demonstration import DEMONSTRATION
from agent.core.filters import Preprocessing, prepare
from agent.core.labels import LABEL_NAMES, LABELS
from agent.core.manifest import Label, Manifest, Training
from agent.engines.bundle import UNSIGNED, default_bundle, open_bundle
from agent.engines.openvino import OpenVinoEngine
from training.bundle import TOLERANCE, write_bundle
from training.compile import LICENCES, golden_windows, identity_of
from training.evaluation.alerts import MAX_PER_BED_DAY
from training.evaluation.evidence import MIN_LOWER_AUROC, MIN_POSITIVE_PATIENTS
from training.inference import Network, convert
from training.models.sl import DeepECGSL
from training.recipes import smoke

LABELS_OF_MANIFEST = tuple(Label(name=info.name, severity=info.severity.value) for info in LABELS)


def small_net() -> DeepECGSL:
    net = DeepECGSL(replace(smoke().network, labels=len(LABELS)))
    net.initialise(torch.Generator().manual_seed(0))
    return net.eval()


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DeepECGSL]:
    net = small_net()
    folder = tmp_path_factory.mktemp("bundles") / "small"
    folder.mkdir()
    (folder / "manifest.json").write_text("of an older bundle")
    write_bundle(
        folder,
        net,
        golden_windows()[:3],
        LABELS_OF_MANIFEST,
        identity_of(net, "0.0.1"),
        Training(summary="none", datasets={}, patients=0, windows=0),
        "# nothing\n",
    )
    assert [path.name for path in folder.parent.iterdir()] == ["small"]
    return folder, net


def test_a_written_bundle_serves_what_torch_computes(small_bundle: tuple[Path, DeepECGSL]) -> None:
    folder, net = small_bundle
    bundle = open_bundle(folder, UNSIGNED)
    x = prepare(golden_windows()[5:9], 250.0, bundle.manifest.input.preprocessing)
    with torch.no_grad():
        expected = torch.sigmoid(net(torch.from_numpy(x))).numpy()
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        np.testing.assert_allclose(engine.infer(x), expected, atol=1e-5)
    parity = bundle.manifest.engines[0].parity
    assert parity.windows == 3 and parity.probability_max is not None and parity.probability_max < 1e-5
    assert "weights.safetensors" in bundle.manifest.files


def test_the_batch_is_dynamic() -> None:
    network = Network(convert(small_net(), 500))
    x = np.random.default_rng(0).normal(0, 50, (5, 12, 500)).astype(np.float32)
    together = network.infer(x)
    assert together.shape == (5, 77)
    np.testing.assert_allclose(np.concatenate([network.infer(x[i : i + 1]) for i in range(5)]), together, atol=1e-5)


def test_wrong_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="77 outputs, but 1 labels"):
        write_bundle(
            tmp_path / "x",
            small_net(),
            np.zeros((1, 12, 2500), np.float32),
            LABELS_OF_MANIFEST[:1],
            identity_of(small_net(), "0"),
            Training(summary="", datasets={}, patients=0, windows=0),
            "",
        )


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
    assert sum(entry.size for entry in manifest.files.values()) < 15e6


def test_shipped_bundle_gives_its_golden_answers() -> None:
    bundle = open_bundle(default_bundle())
    p = bundle.manifest.input.preprocessing
    assert p == Preprocessing()
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
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
