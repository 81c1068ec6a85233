"""Engines: what can be asked for, what is left out, and that nothing is published but what passes the gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.engines.bundles.bundle import UNSIGNED, open_bundle
from agent.engines.compile import PRECISIONS, Built, SourceFiles
from training.data import WindowTable
from training.publish.bundle import Contents
from training.publish.engines import Asked, asked_from, compile_all, defaults, once, publish


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("openvino-bf16", Asked("openvino", "bf16")),
        ("tensorrt-f32:4", Asked("tensorrt", "f32", (4,))),
        ("tensorrt-f16", Asked("tensorrt", "f16")),
        ("tensorrt-rtx-f16:32,1,8", Asked("tensorrt-rtx", "f16", (1, 8, 32))),
        ("torch-cuda-bf16", Asked("torch-cuda", "bf16")),
    ],
)
def test_what_can_be_asked_for(text: str, asked: Asked) -> None:
    assert asked_from(text) == asked
    assert text.startswith(asked.name)


def test_every_flavour_and_precision_can_be_asked_for_by_its_name() -> None:
    for flavour, precisions in PRECISIONS.items():
        for precision in precisions:
            found = asked_from(f"{flavour}-{precision}")
            assert (found.flavour, found.precision, found.batches) == (flavour, precision, ())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("openvino", "is not FLAVOUR-PRECISION"),
        ("torch-cuda", "flavours are openvino, tensorrt, tensorrt-rtx, torch-cuda"),
        ("onnx-f32", "is not FLAVOUR-PRECISION"),
        ("openvino-f32:", "is not FLAVOUR-PRECISION"),
        ("openvino-f16", "openvino has no f16; take one of f32, bf16, int8w"),
        ("tensorrt-f32:0", "a batch has 1 to 4096 windows"),
        ("tensorrt-f32:1,5000", "a batch has 1 to 4096 windows"),
        ("openvino-f32:1,8", "openvino computes window by window; leave the batches out"),
    ],
)
def test_what_cannot(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        asked_from(text)


def test_an_engine_is_asked_for_once() -> None:
    assert once(defaults("ssl")) == defaults("ssl")
    assert defaults("sl")[-1].precision == "f32"
    with pytest.raises(ValueError, match="tensorrt-f16 is asked for twice; give all its batches at once"):
        once([Asked("tensorrt", "f16", (1,)), Asked("tensorrt", "f16", (8,))])


def test_a_precision_that_the_network_does_not_have_is_refused_or_left_out(
    source: SourceFiles, f32: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [Asked("openvino", "int8w"), Asked("openvino", "f32", (1, 8)), Asked("torch-cuda", "bf16")]
    with pytest.raises(ValueError, match="openvino-int8w: int8 weights are for matrix products"):
        compile_all(source, asked, progress=False)
    built, left_out = compile_all(source, asked, drop_failing=True)
    assert [f"{one.flavour}-{one.precision}" for one in built] == ["openvino-f32", "torch-cuda-bf16"]
    assert built[0].files == f32.files
    assert built[1].files == {"model.onnx": source.onnx}
    (sentence,) = left_out
    assert sentence.startswith("openvino-int8w is left out: int8 weights")
    assert "openvino-f32: 100 %" in capsys.readouterr().err


def test_only_what_passes_is_published_and_a_closed_gate_leaves_the_old_bundle(
    tmp_path: Path, alerting: Contents, source: SourceFiles, f32: Built, wrong: Built, small_table: WindowTable
) -> None:
    folder, told = tmp_path / "x", []
    manifest = publish(
        folder, alerting, source, [wrong, f32], table=small_table, progress=False, drop_failing=True, tell=told.append
    )
    (found,) = told
    assert [bool(one.broken) for one in found.engines] == [True, False]
    (engine,) = manifest.engines
    assert (engine.precision, engine.parity) == ("f32", found.engines[1].parity)
    assert engine.parity.windows == 4 + 60
    assert engine.parity.logit_max is not None
    assert engine.parity.logit_max <= 1e-4
    assert engine.parity.alerts_differ == 0
    assert "model-int8w.bin" not in manifest.files
    assert "held against fp32 torch on 4 golden windows and 60 of" in manifest.change.how_tested
    readme = (folder / "README.md").read_text()
    assert "| openvino-int8w |" in readme
    assert "FAILS" in readme
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(ValueError, match=r"closed for openvino-int8w, and .*x was not written; .* --drop-failing"):
        publish(folder, alerting, source, [f32, wrong], progress=False, tell=told.append)
    assert len(told) == 2, "what was found is told all the same"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert open_bundle(folder, UNSIGNED).manifest == manifest


def test_a_bundle_without_engines_is_none(
    tmp_path: Path, alerting: Contents, source: SourceFiles, wrong: Built
) -> None:
    with pytest.raises(ValueError, match="closed for openvino-int8w"):
        publish(tmp_path / "x", alerting, source, [wrong], progress=False, drop_failing=True)
    assert not list(tmp_path.iterdir())
