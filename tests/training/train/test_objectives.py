"""Losses: the pretraining fixture's four parts, and each of the others against its definition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F

from training.models.kinds import Codebook
from training.models.ssl import Pretraining, pretraining_from_state
from training.train.objectives import LOSSES, bce, bce_positives, cmsc, focal, mse, perplexity, pretraining_loss
from training.train.recipes import TINY


def test_pretraining_fixture(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "ssl_pretrain_tiny"
    about = json.loads((folder / "about.json").read_text())
    log, n = about["log"], about["sample_size"]
    net = pretraining_from_state(load_file(folder / "state.safetensors"), heads=4)

    def array(name: str) -> torch.Tensor:
        return torch.from_numpy(np.load(folder / f"{name}.npy"))

    x, masked = array("input"), array("mask_indices")  # the input's masked leads are zeros
    assert torch.equal(x.abs().amax(-1) > 0, array("lead_keep"))
    m = int(masked[0].sum())
    rows = array("negative_indices").view(6, m, -1) - m * torch.arange(6)[:, None, None]
    with torch.no_grad():
        out = net.pretrain(x, masked, rows, temperature=2.0)
        loss = pretraining_loss(out)
    np.testing.assert_allclose(out.logits.numpy(), np.load(folder / "contrastive_logits.npy"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(out.context.numpy(), np.load(folder / "context_features.npy"), rtol=0, atol=1e-5)
    assert float(out.features) == pytest.approx(about["features_pen"], rel=1e-5)
    for part, key in (
        (loss.contrastive, "loss_0"),
        (loss.diversity, "loss_1"),
        (loss.penalty, "loss_2"),
        (loss.cmsc, "loss_3"),
    ):
        assert float(part) * n == pytest.approx(log[key], rel=1e-5), key
    assert float(loss.total) * n == pytest.approx(about["total_loss"], rel=1e-5)
    assert float(loss.probability_perplexity) == pytest.approx(about["prob_perplexity"], rel=1e-5)
    assert float(loss.code_perplexity) == pytest.approx(about["code_perplexity"], rel=1e-5)
    assert float(loss.accuracy) * n == pytest.approx(log["correct"])


def test_unknown_entries_contribute_nothing() -> None:
    logits = torch.tensor([[0.3, -1.2, 2.0], [0.1, 0.7, -0.4]], requires_grad=True)
    labels = torch.tensor([[1, 0, -1], [-1, -1, 1]], dtype=torch.int8)
    known = labels >= 0
    plain = F.binary_cross_entropy_with_logits(logits[known], labels[known].float(), reduction="sum").item()
    assert bce(logits, labels).item() == pytest.approx(plain / 3)
    assert bce_positives(logits, labels).item() == pytest.approx(plain / 2)
    for loss in (bce, bce_positives, focal):
        (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
        assert torch.equal(gradient == 0, ~known)
        assert loss(logits, torch.full_like(labels, -1)).item() == 0


@given(st.floats(-8, 8), st.booleans())
def test_focal_is_its_formula(logit: float, there: bool) -> None:
    p = 1 / (1 + np.exp(-logit))
    p_true, weight = (p, 0.25) if there else (1 - p, 0.75)
    expected = -weight * (1 - p_true) ** 2 * np.log(p_true)
    found = focal(torch.tensor([[logit]], dtype=torch.float64), torch.tensor([[int(there)]]))
    assert float(found) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_mean_squared_error_skips_what_was_not_measured() -> None:
    outputs = torch.tensor([[0.5], [0.2], [0.9]], requires_grad=True)
    targets = torch.tensor([[0.4], [torch.nan], [0.6]])
    loss = mse(outputs, targets)
    assert loss.item() == pytest.approx((0.01 + 0.09) / 2)
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert torch.isfinite(gradient).all()
    assert gradient[1] == 0


def test_cmsc_prefers_a_recording_s_own_segments() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 16, generator=generator)
    alike = z.repeat_interleave(2, 0)
    shuffled = alike.clone()
    shuffled[1::2] = z.roll(1, 0)
    assert cmsc(alike) < 0.1 < cmsc(shuffled)
    torch.testing.assert_close(cmsc(alike), cmsc(3 * alike))  # gain does not matter


def test_perplexity_of_even_codes_is_their_number() -> None:
    assert float(perplexity(torch.full((2, 8), 1 / 8))) == pytest.approx(16, rel=1e-4)
    assert float(perplexity(F.one_hot(torch.tensor([3, 5]), 8).float())) == pytest.approx(2, rel=1e-4)


def test_every_loss_is_finite_for_extreme_logits() -> None:
    logits = torch.tensor([[80.0, -80.0]])
    for name, loss in LOSSES.items():
        assert torch.isfinite(loss(logits, torch.tensor([[0, 1]]))), name


def test_half_precision_does_not_blur_what_is_compared() -> None:
    """Under autocast the networks' products are bf16; the similarities that the losses rank must not be."""
    net = Pretraining(TINY, Codebook(2, 8, 6, 12))
    net.initialise(torch.Generator().manual_seed(0))
    x = torch.randn(6, 12, 1250, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(6, 78, dtype=torch.bool)
    mask[:, 20:60] = True
    negatives = torch.randint(40, (6, 40, 30), generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = net.eval().pretrain(x, mask, negatives, 2.0)
        loss = cmsc(out.context.mean(1))
    assert out.logits.dtype == loss.dtype == torch.float32
    finite = out.logits[torch.isfinite(out.logits)]
    assert not torch.equal(finite, finite.bfloat16().float())
