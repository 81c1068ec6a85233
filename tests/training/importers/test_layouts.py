"""Prefixes and names: whatever a network was wrapped in, its own keys are found, and nothing beside them is dropped."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.importers.layouts import layout_of
from training.importers.names import WeightsError

FAMILIES = ("sl", "ssl", "ssl-pretraining")
prefixes = st.lists(st.sampled_from(["module.", "model.", "_orig_mod.", "encoder.", "net.", "a.ecg."]), max_size=3)


@pytest.fixture(scope="module")
def keys(build: SimpleNamespace) -> dict[str, list[str]]:
    """Of each family's network."""
    nets = (build.sl(3), build.ssl(3), build.pretraining())
    return {family: list(net.state_dict()) for family, net in zip(FAMILIES, nets, strict=True)}


@given(st.sampled_from(FAMILIES), prefixes)
def test_any_prefix_is_found(keys: dict[str, list[str]], family: str, parts: list[str]) -> None:
    prefix = "".join(parts)
    layout = layout_of([prefix + key for key in keys[family]])
    assert (layout.family, layout.prefix) == (family, prefix)
    assert layout.keys == {key: prefix + key for key in keys[family]}


def test_other_names_of_the_same_tensors(keys: dict[str, list[str]]) -> None:
    other = [key.replace("classifier.3.", "classifier.fc1.") for key in keys["sl"]]
    assert sorted(layout_of(other).keys) == sorted(keys["sl"])
    newer = [
        key.replace("pos_conv.0.weight_g", "pos_conv.0.parametrizations.weight.original0").replace(
            "pos_conv.0.weight_v", "pos_conv.0.parametrizations.weight.original1"
        )
        for key in keys["ssl"]
    ]
    assert newer != keys["ssl"]
    assert sorted(layout_of(newer).keys) == sorted(keys["ssl"])
    called = [key.replace("encoder.", "w2v_encoder.", 1) if key.startswith("encoder.") else key for key in keys["ssl"]]
    assert layout_of(called).keys["encoder.encoder.layers.0.fc1.bias"] == "w2v_encoder.encoder.layers.0.fc1.bias"


def test_what_acts_in_training_only_is_left_out_and_told(keys: dict[str, list[str]]) -> None:
    layout = layout_of([*keys["ssl"], "encoder.mask_emb"])
    assert sorted(layout.keys) == sorted(keys["ssl"])
    assert layout.notes == ("encoder.mask_emb was left out: it acts in training only",)


def named(prefix: str, keys: list[str]) -> list[str]:
    return [prefix + key for key in keys]


@pytest.mark.parametrize(
    ("made", "family", "says"),
    [
        (lambda k: k["sl"], "ssl", "those of DeepECG-SL, not of DeepECG-SSL"),
        (lambda k: k["ssl-pretraining"], "ssl", "those of DeepECG-SSL's pretraining network, not of DeepECG-SSL"),
        (lambda _: ["conv1.weight", "layer1.0.bn1.weight"], None, "none of its 2 tensors"),
        (lambda _: [], None, "none of its 0 tensors"),
        (lambda k: k["sl"] + k["ssl"], None, "holds 2 networks"),
        (lambda k: named("a.", k["sl"]) + named("b.", k["sl"]), None, "holds 2 networks"),
        (lambda k: [*named("net.", k["sl"]), "mean", "std"], None, r"2 other tensors \(mean, std\)"),
        (lambda k: [key for key in k["ssl"] if not key.startswith("proj.")], None, "an encoder alone"),
        (lambda k: [key for key in k["ssl-pretraining"] if "quantizer" not in key], None, "an encoder alone"),
        (lambda k: [*k["sl"], "classifier.fc1.weight"], None, "two keys of the file mean the same"),
    ],
)
def test_what_is_no_single_network_is_told(
    keys: dict[str, list[str]], made: Callable[..., list[str]], family: Any, says: str
) -> None:
    with pytest.raises(WeightsError, match=says):
        layout_of(made(keys), family)
