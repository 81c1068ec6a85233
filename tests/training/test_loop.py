"""The loop: what is masked, what is drawn, and that a run can be repeated and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from agent.core.labels import index_of
from training.data import WindowTable
from training.loop import Batches, as_images, learning_rate, load, masked_bce, sampling_weights, save, train
from training.models.sl import DeepECGSL
from training.recipes import demo, smoke

RECIPE = replace(smoke(), short_seconds=1.0)


def test_unknown_labels_contribute_nothing() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([[1, 0, -1, -1, 0, 1]] * 3 + [[-1] * 6], dtype=torch.int8)
    loss = masked_bce(logits, labels)
    known = labels >= 0
    expected = F.binary_cross_entropy_with_logits(logits[known], labels[known].float())
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert logits.grad is not None
    assert torch.all(logits.grad[~known] == 0)
    assert torch.all(logits.grad[known] != 0)
    assert masked_bce(logits, torch.full_like(labels, -1)).item() == 0.0


def test_patients_of_a_label_weigh_the_same() -> None:
    labels = np.full((10, 77), -1, np.int8)
    labels[:8, index_of("Afib")] = 1  # p0 has seven windows with it, p1 one
    patients = np.array(["p0"] * 7 + ["p1"] + ["p2"] * 2)
    weights = sampling_weights(labels, patients, {})
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:7].sum() == pytest.approx(weights[7])
    more = sampling_weights(labels, patients, {"Afib": 3.0})
    assert more[:8].sum() / more[8:].sum() == pytest.approx(3 * weights[:8].sum() / weights[8:].sum())


def test_no_patient_is_in_two_folds_and_none_held_out_is_in_any(small_table: WindowTable) -> None:
    folds = small_table.folds(3)
    for name in np.unique(small_table.patient):
        assert len(set(folds[small_table.patient == name])) == 1
    assert set(folds[small_table.held_out]) == {-1}
    for fold in range(3):
        use = (folds >= 0) & (folds != fold)
        batches = Batches(small_table, use, RECIPE)
        drawn = {name for group in batches.groups for name in small_table.patient[group]}
        assert drawn
        assert not drawn & set(small_table.patient[~use])


def test_a_batch_depends_on_its_step_alone(small_table: WindowTable) -> None:
    batches = Batches(small_table, ~small_table.held_out, RECIPE)
    x, labels = batches(5)
    again, same = Batches(small_table, ~small_table.held_out, RECIPE)(5)
    assert torch.equal(x, again)
    assert torch.equal(labels, same)
    assert x.shape == (RECIPE.batch, 12, 500)
    early, early_labels = batches(0)
    assert early.shape == (RECIPE.batch, 12, 250)
    assert not torch.any(early_labels[:, index_of("Premature ventricular complex")] == 1), "a crop may lack the beat"


def test_repeatable_and_resumable(small_table: WindowTable, tmp_path: Path) -> None:
    use = ~small_table.held_out
    whole = train(RECIPE, small_table, use, tmp_path / "a.pt", progress=False)
    train(RECIPE, small_table, use, tmp_path / "b.pt", stop_after=3, progress=False)
    assert load(tmp_path / "b.pt")["step"] == 3
    resumed = train(RECIPE, small_table, use, tmp_path / "b.pt", progress=False)
    start = DeepECGSL(RECIPE.network)
    start.initialise(torch.Generator().manual_seed(RECIPE.seed))
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
    moved = [k for k, v in start.state_dict().items() if v.is_floating_point() and not torch.equal(v, whole[k])]
    assert len(moved) == sum(v.is_floating_point() for v in whole.values())
    with pytest.raises(ValueError, match="another recipe or other patients"):
        train(replace(RECIPE, seed=1), small_table, use, tmp_path / "a.pt", progress=False)
    with pytest.raises(ValueError, match="another recipe or other patients"):
        train(RECIPE, small_table, use & (small_table.patient != "p00"), tmp_path / "a.pt", progress=False)


def test_the_loop_learns(small_table: WindowTable, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=40, batch=16, augment=False, checkpoint_every=40, peak_rate=1e-2)
    use = ~small_table.held_out
    net = DeepECGSL(recipe.network)
    net.load_state_dict(train(recipe, small_table, use, tmp_path / "c.pt", progress=False))
    index = np.flatnonzero(use)
    x, _ = small_table.batch(index)
    with torch.no_grad():
        logits = net.eval()(torch.from_numpy(x / np.float32(0.0048))).numpy()[:, index_of("Afib")]
    there = small_table.labels[index, index_of("Afib")] == 1
    assert logits[there].mean() > logits[~there].mean() + 0.5


def test_the_twin_computes_and_trains_the_same_tensors() -> None:
    net = DeepECGSL(replace(smoke().network, drop_path=0.0))
    twin = as_images(net.train())
    x = torch.randn(3, 12, 200, generator=torch.Generator().manual_seed(0))
    expected = net(x)
    found = twin(x[:, :, None].to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    before = net.features[0].fused_conv[0].weight.detach().clone()  # type: ignore[union-attr, index]
    found.sum().backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert not torch.equal(before, net.features[0].fused_conv[0].weight)  # type: ignore[union-attr, index]


def test_learning_rate_rises_and_ends_near_zero() -> None:
    recipe = demo()
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    assert max(rates) == pytest.approx(recipe.peak_rate)
    assert rates.index(max(rates)) <= recipe.warm_up * recipe.steps
    assert rates[-1] < 1e-4 * recipe.peak_rate * 10


def test_a_checkpoint_is_whole_even_if_writing_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "x.pt"
    save(path, {"step": 1})

    def cut_short(_: object, file: BinaryIO) -> None:
        file.write(b"half of a checkpoint")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(OSError, match="no space"):
        save(path, {"step": 2})
    assert load(path) == {"step": 1}
