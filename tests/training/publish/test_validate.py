"""Engines against fp32 torch: a sound one passes, a wrong one is found out in every figure, a broken one is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.core.bundle.limits import ParityLimits
from agent.core.labels import index_of
from agent.engines.bundles.bundle import UNSIGNED, Bundle, open_bundle
from agent.engines.compile import Built, SourceFiles, build
from agent.engines.machine import this_machine
from training.data import WindowTable
from training.models.weights import save_network
from training.publish.bundle import Contents, answers_of, draft
from training.publish.report import Validation
from training.publish.validate import compared, network_of, validate, windows_of

MakeContents = Callable[..., Contents]


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, alerting: Contents, source: SourceFiles, f32: Built, wrong: Built
) -> Iterator[Bundle]:
    gpu = build(source, "torch-cuda", "bf16")
    folder = tmp_path_factory.mktemp("validate") / "x"
    with draft(folder, alerting, source, [f32, wrong, gpu, replace(gpu, precision="int8w")]) as made:
        yield open_bundle(made.path, UNSIGNED)


@pytest.fixture(scope="module")
def found(bundle: Bundle, alerting: Contents, small_table: WindowTable) -> Validation:
    with pytest.MonkeyPatch.context() as patch, windows_of(small_table, bundle.manifest, hours=1.0) as windows:
        patch.setattr("training.publish.validate.LEAST_PATIENTS", 4)  # the table has five with the finding
        return validate(bundle, alerting.net, windows, progress=False)


def test_a_sound_engine_passes_and_a_wrong_one_fails(found: Validation) -> None:
    sound, wrong, *_ = found.engines
    assert (sound.broken, sound.not_run) == ("", "")
    assert sound.parity.probability_max is not None
    assert sound.parity.probability_max < 1e-4
    assert sound.parity.flips == 0
    assert sound.golden_max is not None
    assert sound.golden_max < 1e-4
    assert sound.milliseconds is not None
    assert set(sound.milliseconds) == {1, 8}
    assert wrong.broken
    assert wrong in found.failed
    assert wrong.parity.probability_max is not None
    assert wrong.parity.probability_max > 0.1
    assert wrong.all_max is not None
    assert wrong.all_max >= wrong.parity.probability_max


def test_the_replay_counts_the_alerts_of_one_alone(found: Validation) -> None:
    sound, wrong, *_ = found.engines
    assert found.recordings == 10, "all that are continuous"
    assert found.hours == pytest.approx(30 * 5 / 3600)
    assert sound.alerts == wrong.alerts
    assert sound.alerts is not None
    assert sound.alerts > 0
    assert (sound.parity.alerts_differ, sound.moved, sound.differences) == (0, 0, ())
    assert wrong.parity.alerts_differ == len(wrong.differences) > 0
    assert {one.label for one in wrong.differences} == {"Afib"}
    assert all(one.recording.startswith("mitdb/") for one in wrong.differences)


def test_an_engine_for_another_machine_keeps_what_was_measured_elsewhere(found: Validation, bundle: Bundle) -> None:
    if this_machine().gpu:
        pytest.skip("this machine has a GPU")
    one = found.engines[2]
    assert "no NVIDIA GPU" in one.not_run
    assert not one.broken
    assert one.parity == bundle.manifest.engines[2].parity


def test_a_precision_that_fails_here_is_not_offered_where_it_cannot_be_run(found: Validation) -> None:
    if this_machine().gpu:
        pytest.skip("this machine has a GPU")
    last = found.engines[3]
    assert last.not_run
    assert last.broken == "int8w fails as openvino-int8w, and nothing here runs this engine"
    assert last in found.failed


def test_the_auroc_is_of_the_labels_that_count_and_closes_the_gate_where_it_falls(
    found: Validation, alerting: Contents, small_table: WindowTable
) -> None:
    sound, wrong, *_ = found.engines
    assert found.counted == ("Afib",), "the only one with evidence"
    assert wrong.flips is not None
    assert list(wrong.flips) == ["Afib"]
    assert wrong.flips["Afib"] == wrong.parity.flips
    assert sound.auroc is not None
    assert wrong.auroc is not None
    x, _ = small_table.batch(np.arange(len(small_table)))
    x *= np.float32(alerting.input.preprocessing.gain)
    p = answers_of(alerting.net, x, alerting.labels)[:, index_of("Afib")]
    truth = small_table.labels[:, index_of("Afib")]
    pairs = p[truth == 1][:, None] - p[truth == 0][None]  # every patient has three windows, so all weigh the same
    assert sound.auroc["Afib"].fp32 == pytest.approx(float(((pairs > 0) + 0.5 * (pairs == 0)).mean()))
    assert sound.auroc["Afib"].patients == 5
    change = wrong.auroc["Afib"].engine - wrong.auroc["Afib"].fp32
    assert wrong.parity.auroc_change == pytest.approx(change)
    assert abs(change) > 0.01
    wide = {"probability_max": 1.0, "probability_p999": 1.0, "flips_share": 1.0, "alerts_differ": 10**6}
    assert ("auroc_drop" in ParityLimits.model_validate(wide).broken_by(wrong.parity)) == (change < 0)


def test_few_patients_have_no_auroc(bundle: Bundle, alerting: Contents, small_table: WindowTable) -> None:
    with windows_of(small_table, bundle.manifest, windows=9, hours=0.0) as windows:
        first = bundle.manifest.model_copy(update={"engines": bundle.manifest.engines[:1]})
        (one,) = validate(replace(bundle, manifest=first), alerting.net, windows, progress=False).engines
    assert one.auroc == {}
    assert one.parity.auroc_change is None


def test_without_a_dataset_the_golden_windows_are_compared(bundle: Bundle, alerting: Contents) -> None:
    with compared(None, bundle.manifest) as windows:
        first = bundle.manifest.model_copy(update={"engines": bundle.manifest.engines[:1]})
        found = validate(replace(bundle, manifest=first), alerting.net, windows, progress=False)
    assert (found.windows, found.golden) == (0, 4)
    (one,) = found.engines
    assert one.parity.windows == 4
    assert not one.broken
    assert one.alerts is None


def test_an_engine_that_does_not_load_fails(
    tmp_path: Path, alerting: Contents, source: SourceFiles, f32: Built
) -> None:
    hollow = replace(f32, files={"junk.xml": b"<net/>", "junk.bin": b"\0" * 8})
    with (
        draft(tmp_path / "x", alerting, source, [hollow]) as made,
        compared(None, made.manifest) as windows,
    ):
        (one,) = validate(open_bundle(made.path, UNSIGNED), alerting.net, windows, progress=False).engines
    assert "cannot load junk.xml" in one.broken


def test_the_network_has_to_be_the_bundle_s(
    bundle: Bundle, alerting: Contents, make_contents: MakeContents, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(0, 50, (3, 12, 500)).astype(np.float32)
    wanted = answers_of(alerting.net, x, alerting.labels)
    save_network(alerting.net, tmp_path / "same", alerting.config)
    for found in (network_of(bundle), network_of(bundle, tmp_path / "same")):
        state = found.state_dict()
        assert state.keys() == alerting.net.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in alerting.net.state_dict().items())
        # The answers are not compared to the bit: where a tensor lies in memory decides which kernel torch takes.
        np.testing.assert_allclose(answers_of(found, x, alerting.labels), wanted, atol=1e-5)
    other = make_contents(seed=3)
    save_network(other.net, tmp_path / "other", other.config)
    with pytest.raises(ValueError, match=r"other is not the network of deepecg-sl-demo/0\.0\.1"):
        network_of(bundle, tmp_path / "other")
    files = {name: entry for name, entry in bundle.manifest.files.items() if not name.startswith("weights")}
    bare = replace(bundle, manifest=bundle.manifest.model_copy(update={"files": files}))
    with pytest.raises(ValueError, match=r"holds no weights\.safetensors; name the model folder .* --model"):
        network_of(bare)
    with compared(None, bundle.manifest) as windows, pytest.raises(ValueError, match="away from the bundle's golden"):
        validate(bundle, other.net, windows, progress=False)


def test_the_windows_are_the_network_s_own(bundle: Bundle, small_table: WindowTable) -> None:
    limb = bundle.manifest.input.model_copy(update={"accepted_leads": bundle.manifest.input.accepted_leads[:6]})
    manifest = bundle.manifest.model_copy(update={"input": limb})
    with windows_of(small_table, manifest, windows=20, hours=0.0) as windows:
        x = np.load(windows.path)
        assert x.shape == (len(windows.truth), 12, 500)
        assert not x[:, 6:].any()
        assert 20 < np.abs(x).max() < 1000, "in units of 4.8 µV"
        assert sum(windows.sources.values()) == len(x)
    assert not windows.path.exists(), "nothing is left on the disk"
    longer = bundle.manifest.input.preprocessing.model_copy(update={"seconds": 10.0})
    other = bundle.manifest.model_copy(update={"input": limb.model_copy(update={"preprocessing": longer})})
    with pytest.raises(ValueError, match="250 Hz, 10 s, fixed filters"), windows_of(small_table, other):
        pass
