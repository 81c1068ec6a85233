"""What training minimises: losses of logits and of a pretraining pass, each a mean whose gradient the optimiser takes.

Labels are 1, 0 or -1 = unknown; targets of regression are numbers or NaN = unknown. What is unknown contributes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.models.ssl import Pretrained, mean_over_time
from training.train.distributed import averaged, gathered
from training.train.recipes import LossName


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of (B, L) logits: the mean over the known entries, zero where nothing is known."""
    known, loss = _entries(logits, labels)
    return loss.sum() / known.sum().clamp_min(1)


def bce_positives(logits: Tensor, labels: Tensor) -> Tensor:
    """The published fine-tuning's: the sum over the known entries, divided by how many of them are positive."""
    _, loss = _entries(logits, labels)
    return loss.sum() / (labels > 0).sum().clamp_min(1)


def focal(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) of (B, L) logits with the published α and γ: the mean over known entries."""
    known, loss = _entries(logits, labels)
    there = labels > 0
    p = torch.sigmoid(logits)
    miss = torch.where(there, 1 - p, p)
    weight = torch.where(there, alpha, 1 - alpha) * miss**gamma
    return (weight * loss).sum() / known.sum().clamp_min(1)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of (B, L) outputs over the targets that are numbers."""
    known = torch.isfinite(targets)
    error = (outputs - targets.nan_to_num()) * known
    return error.square().sum() / known.sum().clamp_min(1)


LOSSES: Mapping[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": bce,
    "bce_positives": bce_positives,
    "focal": focal,
    "mse": mse,
}


def _entries(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which entries are known, and the cross-entropy of each, zero where unknown."""
    known = labels >= 0
    loss = F.binary_cross_entropy_with_logits(logits, labels.clamp(0, 1).to(logits.dtype), reduction="none")
    return known, loss * known


@dataclass(frozen=True, slots=True, eq=False)
class PretrainingLoss:
    """The parts of the pretraining loss, each per masked token and over all ranks; ``total`` has the gradient."""

    total: Tensor
    contrastive: Tensor
    """Cross-entropy of the true target against the negatives."""
    diversity: Tensor
    """.1 times the share of codes left unused, by the perplexity of the mean probabilities."""
    penalty: Tensor
    """10 times the mean square of the tokeniser's output."""
    cmsc: Tensor
    """Contrast of the two segments of each recording against the other recordings'."""
    accuracy: Tensor
    """Share of masked tokens whose true target is the nearest."""
    probability_perplexity: Tensor
    """Of 640, summed over the groups."""
    code_perplexity: Tensor


DIVERSITY_WEIGHT, PENALTY_WEIGHT = 0.1, 10.0
"""Published (wav2vec 2.0's α and the penalty of the features)."""
CMSC_TEMPERATURE = 0.1


def perplexity(distribution: Tensor) -> Tensor:
    """The sum over the groups of the perplexity of (groups, codes)."""
    return torch.exp(-(distribution * torch.log(distribution + 1e-7)).sum(-1)).sum()


def cmsc(segments: Tensor) -> Tensor:
    """Contrastive multi-segment coding (Kiyasseh et al., CLOCS, ICML 2021) of (2R, D) contexts of R recordings.

    Rows 2i and 2i + 1 are the two adjacent segments of one recording. Each must find the other among those of all
    recordings. As in the reference the norm is not differentiated.
    """
    with torch.autocast(segments.device.type, enabled=False):
        z = segments.float()
        z = z / z.detach().norm(dim=-1, keepdim=True).clamp_min(1e-8)
        similarity = z[0::2] @ z[1::2].T / CMSC_TEMPERATURE  # (R, R)
        truth = torch.arange(len(similarity), device=z.device)
        return (F.cross_entropy(similarity, truth) + F.cross_entropy(similarity.T, truth)) / 2


def pretraining_loss(out: Pretrained) -> PretrainingLoss:
    """The loss of a pass over segments of which rows 2i and 2i + 1 are one recording's.

    The reference sums over masked tokens and divides by their number at the optimiser's step; here it is divided at
    once. Contexts and the codes' probabilities are gathered over ranks, so that the loss is that of one process with
    all of the batch.
    """
    logits = out.logits.float().flatten(1).T  # (B * M, 1 + K)
    contrastive = averaged(F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long)))
    probable = perplexity(averaged(out.codes.probabilities))
    every = out.codes.probabilities.numel()
    diversity = DIVERSITY_WEIGHT * (every - probable) / every
    penalty = PENALTY_WEIGHT * averaged(out.features)
    between = cmsc(gathered(mean_over_time(out.context, None)))
    with torch.no_grad():
        accuracy = averaged((logits.argmax(-1) == 0).float().mean())
        used = perplexity(averaged(out.codes.used))
    total = contrastive + diversity + penalty + between
    return PretrainingLoss(total, contrastive, diversity, penalty, between, accuracy, probable.detach(), used)
