"""From a recipe and a split to a model folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data import WindowTable
from training.models.kinds import SLConfig
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL, Pretraining, encoder_state
from training.models.weights import load_network, read_config
from training.train.folds import split_of
from training.train.learners import head_of
from training.train.recipes import TINY, smoke, smoke_fine_tune, smoke_pretrain
from training.train.run import MODEL, network_of, outputs, run, start_from_prevalence, steps_of


def test_pretrained_weights_go_into_the_fine_tuned_network(small_table: WindowTable, tmp_path: Path) -> None:
    split = split_of(small_table, ~small_table.held_out, 3, 0, validate=False)
    run(smoke_pretrain(), small_table, split, tmp_path / "pre", progress=False)
    start = load_network(tmp_path / "pre" / MODEL)
    assert isinstance(start, Pretraining)
    config = read_config(tmp_path / "pre" / MODEL)
    assert (config.family, config.preprocessing.seconds, config.preprocessing.gain) == ("ssl-pretraining", 1.0, 1.0)
    recipe = replace(smoke_fine_tune(), network=replace(TINY, labels=77, layers=5, width=64))
    net = network_of(recipe, start)
    assert isinstance(net, DeepECGSSL)
    assert net.config.layers == 2, "the pretrained weights bring their sizes"
    for key, value in encoder_state(start.state_dict()).items():
        assert torch.equal(net.state_dict()[f"encoder.{key}"], value)
    run(recipe, small_table, split, tmp_path / "tuned", start=start, progress=False)
    tuned = load_network(tmp_path / "tuned" / MODEL)
    assert isinstance(tuned, DeepECGSSL)
    assert read_config(tmp_path / "tuned" / MODEL).order == "sl"
    # Fine-tuned once more, for one output: the encoder stays, the head begins anew.
    again = network_of(replace(recipe, task="brugada"), tuned)
    assert torch.equal(again.encoder.layer_norm.weight, tuned.encoder.layer_norm.weight)  # type: ignore[union-attr]
    assert head_of(again).out_features == 1  # type: ignore[arg-type]


def test_published_sl_weights_are_tuned_for_another_task() -> None:
    start = network_of(smoke())
    net = network_of(replace(smoke(), task="af_5y"), start)
    assert isinstance(net, DeepECGSL)
    assert torch.equal(net.final_conv.weight, start.final_conv.weight)  # type: ignore[union-attr]
    assert head_of(net).out_features == 1
    with pytest.raises(ValueError, match="cannot begin with weights of DeepECGSL"):
        network_of(smoke_fine_tune(), start)


def test_a_head_begins_at_the_labels_prevalence(small_table: WindowTable) -> None:
    net = network_of(smoke())
    assert isinstance(net, DeepECGSL)
    start_from_prevalence(net, np.array([[1] + [0] * 76] * 8 + [[0] * 77] * 2, np.int8))
    assert head_of(net).bias[0].item() == pytest.approx(np.log(9 / 12))
    assert head_of(net).bias[1].item() == pytest.approx(np.log(1 / 20))
    one = DeepECGSL(SLConfig(labels=1, blocks=smoke().network.blocks))  # type: ignore[union-attr]
    start_from_prevalence(one, np.array([[40.0], [60.0], [np.nan]], np.float32))
    assert head_of(one).bias[0].item() == 50


def test_a_regression_is_learned_in_percent(small_table: WindowTable, tmp_path: Path) -> None:
    fast = small_table.labels[:, 15] == 1
    table = replace(small_table, targets={"lvef": np.where(fast, 30.0, 60.0).astype(np.float32)})
    recipe = replace(smoke(), task="lvef", loss="mse", sampling="shuffled", emphasis={}, steps=3)
    split = split_of(table, ~table.held_out, 3, 0, validate=False)
    run(recipe, table, split, tmp_path, progress=False)
    assert read_config(tmp_path / MODEL).activation == "none"
    found = outputs(load_network(tmp_path / MODEL), table, split.test, 208.0)
    assert found.shape == (len(split.test), 1)
    assert 30 < found.mean() < 65


def test_an_epoch_sees_every_window() -> None:
    recipe = replace(smoke(), steps=0, epochs=3, batch=10)
    assert steps_of(recipe, 25) == (9, 3)
    assert steps_of(replace(recipe, steps=7, validate_every=2), 25) == (7, 2)


def test_predicting_keeps_no_graph(small_table: WindowTable) -> None:
    """The reference ran inference without no_grad: eight times the memory."""
    net, seen = network_of(smoke()).eval(), []
    net.register_forward_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    outputs(net, small_table, np.arange(4), 208.0)
    assert seen == [True]


def test_threads_that_read_and_predict_do_not_mix_windows(small_table: WindowTable) -> None:
    """In the reference all threads shared one array of leads."""
    net = network_of(smoke()).eval()
    orders = [np.random.default_rng(seed).permutation(len(small_table)) for seed in range(8)]
    alone = outputs(net, small_table, np.arange(len(small_table)), 208.0, batch=7)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda order: outputs(net, small_table, order, 208.0, batch=7), orders))
    for order, one in zip(orders, found, strict=True):
        np.testing.assert_allclose(one, alone[order], atol=1e-5)
