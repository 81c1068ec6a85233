"""Compiling on the ward: what is worth it, what is kept, and what is remembered of what fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import pytest

from agent.core.bundle.derived import Machine
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import Bundle, BundleError
from agent.engines.local import rebuild as module
from agent.engines.local.engines import read_derived
from agent.engines.local.rebuild import cannot, fingerprint, fitting, presumed, rebuild, worth_it
from agent.engines.local.record import CanaryState, Record, Serving, Stage, now, read_record, update_record
from agent.engines.machine import this_machine
from agent.engines.select import Skipped, open_backend

Publisher: TypeAlias = Any


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(scope="module")
def here() -> Machine:
    return this_machine()


def machine(here: Machine, gpu: str = "", **libraries: str) -> Machine:
    capability = "8.9" if gpu else ""
    changes = {"gpu": gpu, "compute_capability": capability, "libraries": here.libraries | libraries}
    return here.model_copy(update=changes)


GPU_ENGINE = {"flavour": "tensorrt-rtx", "library": "tensorrt-rtx 1.0", "precision": "bf16", "batches": [1, 8]}


def for_a_gpu(publisher: Publisher, **changes: Any) -> Bundle:
    """Two engines for a GPU of another kind before the one for the CPU, and an ONNX file to compile from."""
    (publisher.network / "model.onnx").write_bytes(b"not read")
    try:
        f32 = {
            "flavour": "openvino",
            "precision": "f32",
            "library": "openvino",
            "files": ["model.xml", "model.bin"],
            "parity": {"windows": 5, "probability_max": 1e-6},
        }
        target = {"kind": "gpu", "compute_capability": "12.0"}
        engines = [
            f32 | GPU_ENGINE | {"target": target},
            f32 | GPU_ENGINE | {"precision": "f16", "target": target},
            f32,
        ]
        source = {"ir": ["model.xml", "model.bin"], "onnx": "model.onnx", "opset": 18}
        return publisher.open("gpu", **({"engines": engines, "source": source} | changes))
    finally:
        (publisher.network / "model.onnx").unlink()


def wanted(bundle: Bundle, on: Machine, record: Record | None = None, **given: Any) -> list[tuple[str, str]]:
    record = record or Record()
    mine = given.get("mine", ())
    serving, skipped = presumed(bundle, on, record, mine)
    found = worth_it(bundle, on, record, mine, given.get("serving", serving), (*given.get("skipped", ()), *skipped))
    assert all(one.parent == bundle.sha256 and one.reason for one in found)
    return [(one.flavour, one.precision) for one in found]


def test_only_what_this_machine_can_have_is_worth_it(publisher: Publisher, here: Machine) -> None:
    bundle = for_a_gpu(publisher)
    assert wanted(bundle, machine(here)) == [], "no GPU"
    assert wanted(bundle, machine(here, "RTX 4090")) == [("tensorrt-rtx", "bf16"), ("tensorrt-rtx", "f16")]
    without = here.model_copy(update={"gpu": "RTX 4090", "compute_capability": "8.9", "libraries": {"openvino": "1"}})
    assert wanted(bundle, without) == [], "the library is missing"


def test_what_serves_and_what_comes_after_it_is_not(publisher: Publisher, here: Machine) -> None:
    bundle = for_a_gpu(publisher)
    gpu = machine(here, "RTX 4090")
    first, second, last = bundle.manifest.engines
    assert wanted(bundle, gpu, serving=first) == []
    assert wanted(bundle, gpu, serving=second) == [("tensorrt-rtx", "bf16")]
    assert wanted(bundle, gpu, serving=last) == [("tensorrt-rtx", "bf16"), ("tensorrt-rtx", "f16")]
    by_hand = last.model_copy(update={"precision": "bf16"})
    assert wanted(bundle, gpu, serving=by_hand) == [], "somebody chose it"


def test_what_fitted_once_is_wanted_first(publisher: Publisher, here: Machine) -> None:
    bundle = publisher.open()
    own = Serving(engine="gone", flavour="openvino", precision="int8w")
    record = Record(serving={bundle.sha256: own})
    assert presumed(bundle, here, record, ())[1][0] == Skipped("openvino-int8w", "it was compiled on another machine")
    assert wanted(bundle, here, record) == [("openvino", "int8w")]


def test_what_failed_on_this_machine_is_not_wanted_again(publisher: Publisher, here: Machine, state: Path) -> None:
    bundle = publisher.open(limits={"probability_max": 1e-5, "logit_max": 1e-3})
    settings = publisher.settings()
    assert wanted(bundle, here) == [("openvino", "int8w")]
    with pytest.raises(BundleError, match="int8w engine fails the gate of ward/1: probability_max is"):
        rebuild(bundle, "openvino", "int8w", state, settings, here)
    record = read_record(state)
    assert "fails the gate" in record.failed[0].reason
    assert wanted(bundle, here, record) == []
    assert wanted(bundle, machine(here, openvino="2099.1"), record) == [("openvino", "int8w")], "another library"
    assert not read_derived(state, bundle.sha256, here)


def test_a_compiler_that_never_came_back_is_started_once_more(
    publisher: Publisher, here: Machine, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publisher.open()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_compile", killed)
        for starts, again in ((1, [("openvino", "int8w")]), (2, [])):
            with pytest.raises(KeyboardInterrupt):
                rebuild(bundle, "openvino", "int8w", state, publisher.settings(), here)
            assert read_record(state).failed[0].starts == starts
            assert wanted(bundle, here, read_record(state)) == again
    rebuild(bundle, "openvino", "int8w", state, publisher.settings(), here)
    assert read_record(state).failed == ()


def test_an_engine_is_compiled_measured_and_kept(publisher: Publisher, here: Machine, state: Path) -> None:
    bundle, phases = publisher.open(), list[str]()
    settings = publisher.settings()
    done = rebuild(bundle, "openvino", "int8w", state, settings, here, lambda phase, _: phases.append(phase))
    assert phases == ["reading", "quantising", "writing", "measuring"]
    entry = done.engine.derived.engine
    assert (entry.flavour, entry.precision, entry.parity.windows) == ("openvino", "int8w", 10)
    assert 1e-6 < (entry.parity.probability_max or 0) < 0.3, "it really computes in int8"
    assert done.size == sum(entry.size for entry in done.engine.derived.files.values())
    record, mine = fitting(state, bundle, here)
    assert [one.path for one in mine] == [done.engine.path]
    assert wanted(bundle, here, record, mine=mine) == [], "it is there"
    with open_backend(done.engine.bundle(bundle), publisher.settings()) as opened:
        assert (opened.name, opened.entry) == ("openvino-int8w", entry)


def test_earlier_ones_of_its_kind_go_unless_they_are_needed(publisher: Publisher, here: Machine, state: Path) -> None:
    bundle, settings = publisher.open(), publisher.settings(max_batch=1)

    def build(max_batch: int) -> str:
        changed = settings.model_copy(update={"max_batch": max_batch})
        return rebuild(bundle, "openvino", "int8w", state, changed, here).engine.path.name

    def there() -> set[str]:
        return {path.name for path in (state / "engines").iterdir()}

    one = build(1)
    two = build(2)  # another parity makes it another engine
    assert there() == {two} != {one}
    serving = Serving(engine=two, flavour="openvino", precision="int8w")
    update_record(state, lambda record: record.with_serving(bundle.sha256, serving))
    three = build(3)
    assert there() == {two, three}
    update_record(state, lambda record: record.with_canary(three, CanaryState(stage=Stage.SHADOW, since=now())))
    four = build(4)
    assert there() == {two, three, four}
    update_record(state, lambda record: record.with_canary(three, CanaryState(stage=Stage.REJECTED, since=now())))
    other = rebuild(bundle, "openvino", "f32", state, settings, here).engine.path.name
    assert there() == {two, three, four, other}


@pytest.mark.parametrize(
    ("flavour", "precision", "words"),
    [
        ("openvino", "f16", "openvino has no f16, only f32, bf16, int8w"),
        ("tensorrt-rtx", "bf16", "holds nothing that tensorrt-rtx can be compiled from"),
    ],
)
def test_what_cannot_be_compiled_is_one_sentence(
    publisher: Publisher, here: Machine, state: Path, flavour: Any, precision: Any, words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        rebuild(publisher.open(), flavour, precision, state, publisher.settings(), here)


def test_why_not(publisher: Publisher, here: Machine) -> None:
    bundle = for_a_gpu(publisher)
    assert "no NVIDIA GPU" in cannot(bundle.manifest, machine(here, **{"tensorrt-rtx": "1"}), "tensorrt-rtx", "bf16")
    assert "tensorrt is not installed" in cannot(bundle.manifest, machine(here, "RTX 4090"), "tensorrt", "bf16")
    old = here.model_copy(update={"cpu_features": ("avx2",)})
    assert "no avx512_bf16" in cannot(bundle.manifest, old, "openvino", "bf16")
    assert cannot(bundle.manifest, old, "openvino", "int8w") == ""
    without = bundle.manifest.model_copy(update={"source": None})
    assert "holds nothing" in cannot(without, here, "openvino", "f32")


def test_the_fingerprint_is_the_machine_s(here: Machine) -> None:
    assert fingerprint(here) == fingerprint(this_machine())
    assert fingerprint(here) != fingerprint(machine(here, "RTX 4090"))
