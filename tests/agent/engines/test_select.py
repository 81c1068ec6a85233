"""The choice of an engine, and its self-test."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.core.bundle.derived import Machine
from agent.core.bundle.manifest import Engine, Target
from agent.core.ecg import FloatArray
from agent.engines.backends.openvino import OpenVinoEngine
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import UNSIGNED, Bundle, open_bundle
from agent.engines.select import misfit, open_backend, self_test
from agent.engines.settings import EngineSettings

Rewrite = Callable[..., None]
SETTINGS = EngineSettings()
PROCESSOR = Machine(cpu="x", cpu_features=(), libraries={})
"""A machine without a GPU."""


def entry_of(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_the_first_engine_that_fits_is_served_and_the_others_say_why_not(folder: Path, rewrite: Rewrite) -> None:
    def add_others(document: dict) -> None:  # type: ignore[type-arg]
        (sound,) = document["engines"]
        document["engines"] = [
            sound | {"flavour": "tensorrt", "precision": "f16", "target": {"kind": "gpu"}},
            sound | {"precision": "f16"},
            sound,
        ]

    rewrite(folder, add_others)
    with capture_logs() as logs, open_backend(open_bundle(folder, UNSIGNED), SETTINGS, machine=PROCESSOR) as opened:
        assert opened.name == "openvino-f32"
        assert opened.golden_difference < 1e-5
        assert opened.infer(np.zeros((2, 12, 2500), np.float32)).shape == (2, 3)
    assert [one.engine for one in opened.skipped] == ["tensorrt-f16", "openvino-f16"]
    assert opened.note == (
        "Serving on openvino-f32 because other engines do not fit this machine (tensorrt-f16: there is no NVIDIA GPU "
        "on this machine, or its driver is not seen; openvino-f16: this processor does not compute f16; put an f32 "
        "engine in the bundle)."
    )
    skipped = [line for line in logs if line["event"] == "engine_skipped"]
    assert [(line["flavour"], line["precision"]) for line in skipped] == [("tensorrt", "f16"), ("openvino", "f16")]
    ready = next(line for line in logs if line["event"] == "engine_ready")
    assert ready["golden_difference"] < 1e-5


def test_nothing_to_say_of_the_first_choice(bundle: Bundle) -> None:
    with open_backend(bundle, SETTINGS, machine=PROCESSOR) as opened:
        assert (opened.skipped, opened.note, opened.bundle) == ((), "", bundle)


def test_derived_engines_come_first_and_the_bundle_s_own_after(bundle: Bundle) -> None:
    manifest = bundle.manifest
    (own,) = manifest.engines
    rtx = own.model_copy(update={"flavour": "tensorrt-rtx", "target": Target(kind="gpu")})
    unfit = replace(bundle, manifest=manifest.model_copy(update={"engines": (rtx,)}))
    fit = replace(bundle, manifest=manifest.model_copy(update={"engines": (own,)}))
    with open_backend(bundle, SETTINGS, derived=(unfit, fit), machine=PROCESSOR) as opened:
        assert opened.bundle is fit
        assert [one.engine for one in opened.skipped] == ["tensorrt-rtx-f32"]


GPU = {"gpu": "NVIDIA L4", "compute_capability": "8.9", "driver": "580.65"}


@pytest.mark.parametrize(
    ("entry", "machine", "reason"),
    [
        ({"target": {"kind": "gpu"}}, {}, "no NVIDIA GPU"),
        (
            {"target": {"kind": "gpu", "compute_capability": "7.5"}},
            GPU,
            "for compute capability 7.5, and NVIDIA L4 has 8.9",
        ),
        ({"target": {"kind": "gpu", "gpu": "NVIDIA A2"}}, GPU, "for NVIDIA A2, and this machine has NVIDIA L4"),
        ({"target": {"kind": "gpu", "driver": "1"}}, GPU, "for GPU driver 1, and this machine has 580.65"),
        (
            {"target": {"kind": "cpu", "cpu_features": ["amx_bf16", "fma"]}},
            {"cpu_features": ("fma",)},
            "has no amx_bf16",
        ),
        ({"flavour": "tensorrt-rtx"}, GPU, r"tensorrt-rtx is not installed: pip install 'deepecg-bedside\[gpu-rtx\]'"),
        (
            {"flavour": "tensorrt", "library": "tensorrt 11.0.0"},
            GPU | {"libraries": {"tensorrt": "11.1.0"}},
            "tensorrt 11.0.0 compiled it, and 11.1.0 is installed: deepecg-agent rebuild",
        ),
        ({"flavour": "tensorrt", "library": "tensorrt 11.0.0"}, GPU | {"libraries": {"tensorrt": "11.0.0"}}, None),
        ({"target": {"kind": "gpu", "compute_capability": "8.9", "gpu": "NVIDIA L4"}}, GPU, None),
        ({"library": "openvino 1999.1"}, {"libraries": {"openvino": "2026.4.1"}}, None),  # an IR is not tied to one
    ],
)
def test_what_the_manifest_alone_tells(bundle: Bundle, entry: dict, machine: dict, reason: str | None) -> None:  # type: ignore[type-arg]
    document = bundle.manifest.engines[0].model_dump() | entry
    found = misfit(Engine.model_validate(document), PROCESSOR.model_copy(update=machine))
    if reason is None:
        assert found == ""
    else:
        assert re.search(reason, found)


def test_no_file_of_an_engine_that_cannot_fit_is_opened(
    folder: Path, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(document: dict) -> None:  # type: ignore[type-arg]
        (sound,) = document["engines"]
        engine = sound | {"flavour": "tensorrt", "files": ["huge.engine"], "target": {"kind": "gpu"}}
        document["engines"] = [engine, sound]
        document["files"]["huge.engine"] = entry_of(folder / "huge.engine")

    (folder / "huge.engine").write_bytes(b"0" * 100)
    rewrite(folder, add)
    bundle = open_bundle(folder, UNSIGNED)
    (folder / "huge.engine").unlink()
    with open_backend(bundle, SETTINGS, machine=PROCESSOR) as opened:
        assert opened.name == "openvino-f32"


def test_no_engine_that_fits(folder: Path, rewrite: Rewrite) -> None:
    rewrite(folder, lambda d: d["engines"][0].update(flavour="tensorrt-rtx", target={"kind": "gpu"}))
    with (
        pytest.raises(
            EngineError, match=r"small/1 has no engine that works .* tensorrt-rtx-f32: there is no NVIDIA GPU"
        ),
        open_backend(open_bundle(folder, UNSIGNED), SETTINGS, machine=PROCESSOR),
    ):
        pytest.fail("served")


def test_this_machine_is_compared_where_none_is_given(bundle: Bundle) -> None:
    wanted = bundle.manifest.engines[0].model_copy(update={"target": Target(kind="cpu", cpu_features=("no_such_set",))})
    one = replace(bundle, manifest=bundle.manifest.model_copy(update={"engines": (wanted,)}))
    with pytest.raises(EngineError, match="this processor has no no_such_set"), open_backend(one, SETTINGS):
        pytest.fail("served")


def test_other_precisions_are_held_to_the_gate_and_f32_to_the_golden_tolerance(folder: Path) -> None:
    answers = np.load(folder / "golden_probabilities.npy")
    bundle = open_bundle(folder, UNSIGNED)
    (entry,) = bundle.manifest.engines

    class Off:
        name = "off"

        def __init__(self, by: float) -> None:
            self.by, self.done = by, 0

        def infer(self, x: FloatArray) -> FloatArray:
            first = self.done % len(answers)
            self.done += len(x)
            return answers[first : first + len(x)] + np.float32(self.by)

        def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
            raise NotImplementedError

    limit = bundle.manifest.limits.probability_max
    half = entry.model_copy(update={"precision": "bf16"})
    assert self_test(Off(limit * 0.9), bundle, 8, half) == pytest.approx(limit * 0.9, rel=1e-3)
    with pytest.raises(EngineError, match=rf"{limit:.2g} allowed"):
        self_test(Off(limit * 1.1), bundle, 8, half)
    with pytest.raises(EngineError, match=r"0\.0001 allowed"):
        self_test(Off(2e-4), bundle, 8, entry)


def test_wrong_answers_fail_the_self_test(folder: Path, rewrite: Rewrite) -> None:
    answers = np.load(folder / "golden_probabilities.npy")
    answers[-1, -1] = 1.0 - answers[-1, -1] if abs(answers[-1, -1] - 0.5) > 0.01 else 0.0
    np.save(folder / "golden_probabilities.npy", answers)
    rewrite(folder)
    with (
        pytest.raises(EngineError, match="fails its self-test"),
        open_backend(open_bundle(folder, UNSIGNED), EngineSettings()),
    ):
        pytest.fail("served")


def test_self_test_gives_the_largest_difference(bundle: Bundle) -> None:
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        assert 0.0 <= self_test(engine, bundle, max_batch=2) < 1e-5


def test_at_the_start_a_few_windows_do(bundle: Bundle) -> None:
    batches: list[int] = []
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:

        class Counting:
            name = engine.name

            def infer(self, x: FloatArray) -> FloatArray:
                batches.append(len(x))
                return engine.infer(x)

            infer_raw = engine.infer_raw

        assert self_test(Counting(), bundle, 2, most=3) < 1e-5
        assert batches == [1, 2, 1]  # the first alone; three of five, spread, in twos
        batches.clear()
        assert self_test(Counting(), bundle, 2) < 1e-5
        assert batches == [1] * 5 + [2, 2, 1]


def test_what_goes_wrong_inside_is_not_taken_for_a_misfit(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="mine"), open_backend(bundle, EngineSettings()):
        raise EngineError("mine")
