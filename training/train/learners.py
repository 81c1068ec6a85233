"""What a step computes: a network with its objective, as one module, so that DDP sees one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL, Pretraining
from training.train.masking import draw_negatives
from training.train.objectives import LOSSES, pretraining_loss
from training.train.recipes import LossName, Masking

Parts = dict[str, Tensor]
"""``loss`` has the gradient; the others are told in the log."""


class Supervised(nn.Module):
    """A network of diagnoses, a biomarker or a number, and its loss."""

    def __init__(self, net: DeepECGSL | DeepECGSSL, loss: LossName, *, head_only: bool = False) -> None:
        super().__init__()
        self.net, self.loss, self.head_only = net, LOSSES[loss], head_only
        if head_only:
            for parameter in net.parameters():
                parameter.requires_grad_(False)
            for parameter in head_of(net).parameters():
                parameter.requires_grad_(True)
        elif isinstance(net, DeepECGSSL) and net.config.feature_gradient == 0:
            net.encoder.feature_extractor.requires_grad_(False)

    def train(self, mode: bool = True) -> Supervised:
        """With the body frozen its statistics are too."""
        super().train(mode)
        if self.head_only:
            self.net.eval()
        return self

    def forward(self, batch: dict[str, Tensor], step: int) -> Parts:  # noqa: ARG002, D102
        return {"loss": self.loss(self.net(batch["x"]).float(), batch["truth"])}


class SelfSupervised(nn.Module):
    """wav2vec 2.0, contrastive multi-segment coding and random lead masking."""

    def __init__(self, net: Pretraining, masking: Masking, temperature: tuple[float, float, float]) -> None:
        super().__init__()
        self.net, self.masking, self.temperature = net, masking, temperature

    def gumbel(self, step: int) -> float:
        """Temperature of the Gumbel softmax at a step: from the first towards the second by a factor each step."""
        start, end, factor = self.temperature
        return max(start * factor**step, end)

    def forward(self, batch: dict[str, Tensor], step: int) -> Parts:  # noqa: D102
        x, mask = batch["x"], batch["mask"]
        generator = torch.Generator(x.device).manual_seed(int(batch["seed"]))
        negatives = draw_negatives(len(x), int(mask[0].sum()), self.masking.negatives, generator)
        loss = pretraining_loss(self.net.pretrain(x, mask, negatives, self.gumbel(step)))
        return {
            "loss": loss.total,
            "contrastive": loss.contrastive.detach(),
            "diversity": loss.diversity.detach(),
            "penalty": loss.penalty.detach(),
            "cmsc": loss.cmsc.detach(),
            "accuracy": loss.accuracy,
            "perplexity": loss.probability_perplexity,
            "code_perplexity": loss.code_perplexity,
        }


Learner = Supervised | SelfSupervised


def head_of(net: DeepECGSL | DeepECGSSL) -> nn.Linear:
    """The last layer."""
    layer = net.classifier[3] if isinstance(net, DeepECGSL) else net.proj
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"the head is a {type(layer).__name__}, not a linear layer")
    return layer
