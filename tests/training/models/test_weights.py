"""Model folders: the same network comes back, the same bytes are written, and whatever does not agree is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from agent.core.labels import LABEL_NAMES, SSL_ORDER, index_of
from agent.core.preprocessing import Preprocessing
from training.models import weights
from training.models.kinds import Codebook, ConvBlock, SLConfig, SSLConfig
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL, Pretraining
from training.models.weights import ModelConfig, Network, Provenance, config_of, load_network, read_config, save_network

BLOCKS = (ConvBlock(8, 3), ConvBlock(12, 5, 2), ConvBlock(16, 3, 2, 24))
TINY_SSL = SSLConfig(5, 12, (16,) * 4, 32, 2, 4, 64, 16, 4)


def tiny(kind: str) -> Network:
    torch.manual_seed(0)
    if kind == "sl":
        return DeepECGSL(SLConfig(labels=77, stem=8, blocks=BLOCKS, tail=32))
    net: Any = (
        DeepECGSSL(TINY_SSL) if kind == "ssl" else Pretraining(replace(TINY_SSL, labels=0), Codebook(2, 8, 6, 12))
    )
    net.initialise(torch.Generator().manual_seed(0))
    return net


CONFIGS: dict[str, Callable[[Network], ModelConfig]] = {
    "sl": lambda net: config_of(net, task="77 diagnoses", thresholds=(None,) * 76 + (0.5,)),
    "ssl": lambda net: config_of(net, task="beats", labels=tuple("abcde"), preprocessing=Preprocessing(seconds=5)),
    "ssl-pretraining": lambda net: config_of(
        net, task="pretraining", provenance=Provenance(origin="fairseq checkpoint", file="SSL_pretrained.pt")
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_was_saved_comes_back(tmp_path: Path, kind: str) -> None:
    net = tiny(kind)
    config = CONFIGS[kind](net)
    folder = tmp_path / "a" / "model"
    save_network(net, folder, config)
    assert read_config(folder) == config
    again = load_network(folder)
    assert type(again) is type(net)
    assert not again.training
    assert again.config == net.config
    assert all(p.requires_grad for p in again.parameters())
    x = torch.randn(2, 12, 640, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = net.eval()(x), again(x)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    assert [path.name for path in folder.parent.iterdir()] == ["model"]

    # The same content is the same bytes, and a loaded network can be saved again, over itself too.
    save_network(again, tmp_path / "b", config)
    save_network(again, folder, config)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (folder / name).read_bytes()


def test_a_loaded_network_can_be_trained_without_touching_the_file(tmp_path: Path) -> None:
    net = tiny("ssl")
    save_network(net, tmp_path / "m", CONFIGS["ssl"](net))
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    again = load_network(tmp_path / "m")
    with torch.no_grad():
        for p in again.parameters():
            p.add_(1.0)
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_published_inputs() -> None:
    sl = CONFIGS["sl"](tiny("sl"))
    assert sl.preprocessing.gain == 1 / 0.0048
    assert (sl.preprocessing.rate, sl.preprocessing.seconds) == (250, 10)
    assert sl.order == "sl"
    pretraining = CONFIGS["ssl-pretraining"](tiny("ssl-pretraining"))
    assert (pretraining.preprocessing.gain, pretraining.preprocessing.seconds) == (1, 5)


def test_outputs_in_ssl_order_are_put_in_ours() -> None:
    net = DeepECGSSL(replace(TINY_SSL, labels=77))
    config = config_of(net, task="77 diagnoses", labels=SSL_ORDER)
    assert config.order == "ssl"
    outputs = np.zeros((1, 77), np.float32)
    outputs[0, SSL_ORDER.index("Afib")] = 1
    assert weights.in_label_order(outputs, config)[0, index_of("Afib")] == 1
    straight = config_of(net, task="77 diagnoses")
    assert weights.in_label_order(outputs, straight) is outputs
    with pytest.raises(ValueError, match="outputs of its own"):
        weights.in_label_order(outputs, CONFIGS["ssl"](tiny("ssl")))


def damaged(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda config: config | changes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (damaged(format="deepecg-model/2"), "is of version 'deepecg-model/2'"),
        (damaged(family="resnet"), "family"),
        (damaged(labels=["a"]), "1 labels for 77 outputs"),
        (damaged(thresholds=[0.5]), "1 thresholds for 77 labels"),
        (damaged(order="ssl"), "not in the order that is stated"),
        (damaged(labels=["a"] * 77, order=None), "same name"),
        (damaged(family="ssl"), "sizes has no"),
        (
            damaged(codebook={"groups": 2, "codes": 8, "width": 6, "final": 12, "feature_dropout": 0}),
            "codebook belongs",
        ),
        (damaged(colour="red"), "colour"),
        (lambda c: c | {"sizes": c["sizes"] | {"depth": 3}}, "sizes has no depth"),
        (lambda c: c | {"sizes": c["sizes"] | {"labels": "many"}}, r"sizes\.labels"),
    ],
)
def test_a_config_that_does_not_agree_is_refused(tmp_path: Path, change: Callable[..., Any], says: str) -> None:
    net = tiny("sl")
    save_network(net, tmp_path / "m", CONFIGS["sl"](net))
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))))
    with pytest.raises(ValueError, match=says) as e:
        load_network(tmp_path / "m")
    assert "\n" not in str(e.value)


def test_files_that_are_missing_or_spoilt_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no .*config\.json; name a model folder"):
        load_network(tmp_path / "nothing")
    net = tiny("sl")
    folder = tmp_path / "m"
    save_network(net, folder, CONFIGS["sl"](net))
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        load_network(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_network(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        read_config(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="no config of a model"):
        read_config(folder)


def test_tensors_that_do_not_fit_are_counted_and_named(tmp_path: Path) -> None:
    net = tiny("sl")
    folder = tmp_path / "m"
    save_network(net, folder, CONFIGS["sl"](net))
    tensors = load_file(str(folder / "model.safetensors"))
    for i in range(4):
        tensors[f"other.{i}"] = torch.zeros(1)
    del tensors["final_conv.bias"]
    tensors["classifier.3.bias"] = torch.zeros(3)
    save_file(tensors, str(folder / "model.safetensors"))
    with pytest.raises(ValueError, match="do not fit DeepECG-SL") as e:
        load_network(folder)
    said = str(e.value)
    assert "1 missing (final_conv.bias)" in said
    assert "4 left over (other.0, other.1, other.2, …)" in said
    assert "1 of another shape (classifier.3.bias (3,) instead of (77,))" in said


def test_nothing_but_a_model_is_replaced(tmp_path: Path) -> None:
    net = tiny("sl")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("dear")
    with pytest.raises(ValueError, match="no model folder"):
        save_network(net, tmp_path / "home", CONFIGS["sl"](net))
    (tmp_path / "home" / "config.json").write_text('{"model_type": "bert"}')  # another program's
    with pytest.raises(ValueError, match="no model folder"):
        save_network(net, tmp_path / "home", CONFIGS["sl"](net))
    assert (tmp_path / "home" / "letters.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    save_network(net, tmp_path / "empty", CONFIGS["sl"](net))
    (tmp_path / "b.new").mkdir()  # what a crash left behind
    save_network(net, tmp_path / "b", CONFIGS["sl"](net))
    assert {path.name for path in tmp_path.iterdir()} == {"home", "empty", "b"}


def test_an_interrupted_writing_leaves_the_old_model_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny("sl")
    folder = tmp_path / "m"
    save_network(net, folder, CONFIGS["sl"](net))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", fails)
    with pytest.raises(OSError, match="No space"):
        save_network(net, folder, CONFIGS["sl"](net))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_config_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="that of another network"):
        save_network(tiny("ssl"), tmp_path / "m", CONFIGS["sl"](tiny("sl")))
    with pytest.raises(ValueError, match="77 labels for 5 outputs"):
        config_of(tiny("ssl"), task="77 diagnoses")
    with pytest.raises(ValueError, match="name its labels"):
        config_of(tiny("ssl"), task="beats")
    with pytest.raises(ValueError, match="a Linear is no network"):
        weights.family_of(nn.Linear(1, 1))


def test_the_report_classifier_has_no_network_here(tmp_path: Path) -> None:
    about = ModelConfig(
        family="bert", task="77 diagnoses", labels=LABEL_NAMES, order="sl", preprocessing=Preprocessing(), sizes=None
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "deepecg": about.model_dump(mode="json")}))
    assert read_config(tmp_path) == about
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="report classifier"):
        load_network(tmp_path)


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from([3, 5]), st.sampled_from([1, 2]), st.none() | st.integers(1, 9))
    ),
    st.lists(st.text(min_size=1), unique=True, max_size=6),
    st.lists(st.none() | st.floats(0, 1), max_size=6),
)
def test_any_config_survives_json(blocks: list[Any], labels: list[str], thresholds: list[float | None]) -> None:
    config = ModelConfig(
        family="sl",
        task="t",
        labels=tuple(labels),
        thresholds=tuple((thresholds + [None] * 6)[: len(labels)]),
        preprocessing=Preprocessing(),
        sizes=SLConfig(labels=len(labels), blocks=tuple(ConvBlock(*b) for b in blocks)),
    )
    assert ModelConfig.model_validate(json.loads(weights.json_of(config))) == config
