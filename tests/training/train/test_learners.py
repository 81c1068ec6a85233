"""A network with its objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from training.models.kinds import Codebook
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL, Pretraining
from training.train.learners import SelfSupervised, Supervised, head_of
from training.train.recipes import TINY, Masking, smoke


def sl() -> DeepECGSL:
    net = DeepECGSL(smoke().network)  # type: ignore[arg-type]
    net.initialise(torch.Generator().manual_seed(0))
    return net


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(4, 12, 250, generator=generator),
        "truth": torch.randint(-1, 2, (4, 77), generator=generator),
    }


def test_a_probe_moves_the_head_alone() -> None:
    learner = Supervised(sl(), "bce", head_only=True).train()
    before = {key: value.clone() for key, value in learner.net.state_dict().items()}
    assert not learner.net.training, "the statistics of a frozen body are frozen too"
    learner(batch(), 0)["loss"].backward()
    optimiser = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=1.0)
    optimiser.step()
    moved = {key for key, value in learner.net.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"classifier.3.weight", "classifier.3.bias"}


@pytest.mark.parametrize(("factor", "trained"), [(0.0, False), (0.1, True)])
def test_a_tokeniser_without_gradient_is_not_trained(factor: float, trained: bool) -> None:
    net = DeepECGSSL(replace(TINY, labels=77, feature_gradient=factor))
    net.initialise(torch.Generator().manual_seed(0))
    learner = Supervised(net, "focal").train()
    learner(batch(), 0)["loss"].backward()
    assert all(p.requires_grad is trained for p in net.encoder.feature_extractor.parameters())
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad), "DDP would wait for the missing ones"


def test_pretraining_repeats_itself_and_cools() -> None:
    net = Pretraining(TINY, Codebook(2, 8, 6, 12))
    net.initialise(torch.Generator().manual_seed(0))
    learner = SelfSupervised(net, Masking(span=4, negatives=5), (2.0, 0.5, 0.5))
    assert [learner.gumbel(step) for step in range(4)] == [2.0, 1.0, 0.5, 0.5]
    generator = torch.Generator().manual_seed(2)
    mask = torch.zeros(4, 15, dtype=torch.bool)
    mask[:, 3:11] = True
    step: dict[str, Any] = {
        "x": torch.randn(4, 12, 250, generator=generator),
        "mask": mask,
        "seed": torch.tensor(7),
    }
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(learner.train()(step, 0))
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
    found[0]["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())
    other = learner(step | {"seed": torch.tensor(8)}, 0)
    assert other["contrastive"] != found[0]["contrastive"]


def test_the_head_is_found() -> None:
    assert head_of(sl()).out_features == 77
    assert head_of(DeepECGSSL(replace(TINY, labels=3))).out_features == 3
    net = sl()
    net.classifier[3] = nn.Identity()
    with pytest.raises(TypeError, match="not a linear layer"):
        head_of(net)
