"""The training loop: one recipe, one table of windows, one choice of them, and the weights at the end.

A step's windows, crops, augmentation and dropped branches come from a generator seeded by (recipe, step) alone, so a
run that is resumed from a checkpoint goes on exactly as one that was never stopped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from agent.core.labels import LABEL_NAMES, index_of
from training.augment import disturb, reduce_leads
from training.data import WindowTable
from training.models.sl import DeepECGSL
from training.recipes import Recipe

State = dict[str, Tensor]

TRANSIENT = tuple(
    index_of(name)
    for name in ("Premature ventricular complex", "Premature atrial complex", "Ventricular tachycardia", "Polymorph")
)
"""What is somewhere in a window need not be in a crop of it."""


def masked_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of (B, L) logits against 1, 0 or -1 = unknown, which contributes nothing.

    The mean over the known entries; zero (with a gradient of zero) where nothing is known.
    """
    known = labels >= 0
    loss = F.binary_cross_entropy_with_logits(logits, labels.clamp_min(0).to(logits.dtype), reduction="none")
    return (loss * known).sum() / known.sum().clamp_min(1)


def sampling_weights(
    labels: NDArray[np.int8], patients: NDArray[np.str_], emphasis: Mapping[str, float]
) -> NDArray[np.float64]:
    """(N,) chances of windows (N, L): a label with n patients weighs √n, shared evenly by them and by their windows.

    A window weighs what its rarest label says; one without any label that is there counts as a label of its own.
    """
    _, who = np.unique(patients, return_inverse=True)
    weights = np.zeros(len(labels))
    columns = [labels[:, i] == 1 for i in range(labels.shape[1])]
    columns.append(~np.any(labels == 1, axis=1))
    for i, there in enumerate(columns):
        if not there.any():
            continue
        windows = np.bincount(who[there], minlength=who.max() + 1)
        factor = emphasis.get(LABEL_NAMES[i], 1.0) if i < len(LABEL_NAMES) else 1.0
        share = factor / math.sqrt(np.count_nonzero(windows))
        weights[there] = np.maximum(weights[there], share / windows[who[there]])
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


class Batches:
    """Random access to the batch of any step."""

    def __init__(self, table: WindowTable, use: NDArray[np.bool_], recipe: Recipe) -> None:
        """``use`` (n,) chooses the windows; those without any known label are never drawn."""
        self.table, self.recipe = table, recipe
        known = use & np.any(table.labels >= 0, axis=1)
        self.groups = [np.flatnonzero(known & group) for group in (~table.continuous, table.continuous)]
        if not any(len(group) for group in self.groups):
            raise ValueError("no labelled window to train on; see what deepecg-train describe says of the dataset")
        self.chances = [
            sampling_weights(table.labels[group], table.patient[group], recipe.emphasis) if len(group) else None
            for group in self.groups
        ]
        self.preprocessing = table.network_preprocessing

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Network input (B, 12, T) float32 and labels (B, L) int8 of one step."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, step])
        first = round(recipe.batch * recipe.twelve_lead_share)
        counts = [first, recipe.batch - first]
        if not len(self.groups[0]) or not len(self.groups[1]):
            counts = [recipe.batch if len(group) else 0 for group in self.groups]
        chosen = np.concatenate(
            [
                rng.choice(group, n, p=p)
                for group, p, n in zip(self.groups, self.chances, counts, strict=True)
                if n and p is not None
            ]
        )
        x, _ = self.table.batch(chosen)
        labels = self.table.labels[chosen].copy()
        if step < recipe.short_share * recipe.steps:
            t = round(recipe.short_seconds * self.preprocessing.rate)
            starts = rng.integers(0, x.shape[2] - t + 1, len(x))
            x = np.stack([window[:, s : s + t] for window, s in zip(x, starts, strict=True)])
            part = labels[:, TRANSIENT]
            labels[:, TRANSIENT] = np.where(part == 1, -1, part)
        if recipe.augment:
            reduce_leads(x, rng)
            disturb(x, rng, self.preprocessing.rate)
        x *= np.float32(self.preprocessing.gain)
        return torch.from_numpy(x), torch.from_numpy(labels)


def as_images(net: nn.Module) -> nn.Module:
    """A twin for training on a CPU that shares the network's own tensors but computes on (B, C, 1, T), channels last.

    oneDNN has faster kernels for that layout: 43 against 35 crops a second on one AVX2 core.
    """
    twin: nn.Module
    if isinstance(net, nn.Conv1d):
        k, s, p = net.kernel_size[0], net.stride[0], int(net.padding[0])
        conv = nn.Conv2d(
            net.in_channels,
            net.out_channels,
            (1, k),
            (1, s),
            (0, p),
            groups=net.groups,
            bias=net.bias is not None,
            device="meta",
        )
        conv.weight = nn.Parameter(net.weight.data[:, :, None])  # a view: what the optimiser writes, `net` has
        conv.bias = net.bias
        return conv
    if isinstance(net, nn.BatchNorm1d):
        twin = nn.BatchNorm2d(net.num_features, eps=net.eps, momentum=net.momentum, device="meta")
        twin.weight, twin.bias = net.weight, net.bias
        twin.running_mean, twin.running_var = net.running_mean, net.running_var
        twin.num_batches_tracked = net.num_batches_tracked
        return twin.train(net.training)
    if isinstance(net, nn.AdaptiveAvgPool1d):
        return nn.AdaptiveAvgPool2d(1)
    twin = object.__new__(type(net))
    twin.__dict__ = {**net.__dict__, "_modules": {name: as_images(child) for name, child in net.named_children()}}
    return twin


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero at the last step."""
    warm = max(1, round(recipe.warm_up * recipe.steps))
    if step < warm:
        return recipe.peak_rate * (step + 1) / warm
    done = (step - warm) / max(1, recipe.steps - warm)
    return recipe.peak_rate * 0.5 * (1 + math.cos(math.pi * done))


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint so that at any moment there is a whole one: a new file, synced, then renamed over the old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        torch.save(dict(content), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint, read without executing anything in it."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def train(
    recipe: Recipe,
    table: WindowTable,
    use: NDArray[np.bool_],
    checkpoint: Path,
    *,
    threads: int = 1,
    stop_after: int | None = None,
    progress: bool = True,
) -> State:
    """Run the recipe on the windows that ``use`` (n,) chooses; the averaged weights, also in ``checkpoint``.

    An existing ``checkpoint`` of the same recipe is gone on with. ``stop_after`` ends early, as an interruption would.
    Raises ValueError if the checkpoint is of another recipe or of other windows, or if the loss is no longer finite.
    """
    torch.set_num_threads(threads)
    batches = Batches(table, use, recipe)
    # What a checkpoint must agree with: the recipe but for what may change between two starts, and the patients.
    identity = repr((asdict(recipe) | {"checkpoint_every": 0}, sorted(set(table.patient[use].tolist()))))
    net = DeepECGSL(recipe.network)
    net.initialise(torch.Generator().manual_seed(recipe.seed))
    _start_from_prevalence(net, table.labels[use])
    decay = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    twin = as_images(net).train()
    by_storage = {p.data_ptr(): p for p in twin.parameters()}
    optimiser = torch.optim.AdamW(
        [
            {"params": [by_storage[p.data_ptr()] for p in decay], "weight_decay": recipe.weight_decay},
            {"params": [by_storage[p.data_ptr()] for p in rest], "weight_decay": 0.0},
        ],
        lr=recipe.peak_rate,
    )
    mean = {key: value.clone() for key, value in net.state_dict().items()}
    step = 0
    if checkpoint.exists():
        saved = load(checkpoint)
        if saved["identity"] != identity:
            raise ValueError(
                f"{checkpoint} is of another recipe or other patients; take another output folder, or remove it"
            )
        net.load_state_dict(saved["net"])
        optimiser.load_state_dict(saved["optimiser"])
        mean, step = saved["mean"], saved["step"]

    last = recipe.steps if stop_after is None else min(recipe.steps, stop_after)
    bar = tqdm(total=recipe.steps, initial=step, desc=checkpoint.stem, unit="step", disable=not progress, mininterval=5)
    smooth = math.nan
    while step < last:
        x, labels = batches(step)  # (B, 12, T), (B, 77)
        torch.manual_seed(recipe.seed * 1_000_003 + step)  # stochastic depth
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        logits = twin(x[:, :, None].to(memory_format=torch.channels_last))  # (B, 77)
        loss = masked_bce(logits, labels)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} at step {step}; lower peak_rate in the recipe")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(twin.parameters(), recipe.clip)
        optimiser.step()
        step += 1
        _average(mean, net.state_dict(), min(recipe.ema, step / (step + 9)))
        smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        bar.update()
        if step % recipe.checkpoint_every == 0 or step == last:
            save(
                checkpoint,
                {
                    "identity": identity,
                    "step": step,
                    "net": net.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "mean": mean,
                },
            )
    bar.close()
    return mean


def _average(mean: State, now: State, decay: float) -> None:
    """Running mean of weights and statistics, in place; ``mean`` owns its tensors."""
    for key, value in now.items():
        if value.is_floating_point():
            mean[key].lerp_(value, 1.0 - decay)
        else:
            mean[key].copy_(value)


def _start_from_prevalence(net: DeepECGSL, labels: NDArray[np.int8]) -> None:
    """Let the last layer begin at each label's log-odds, so that the first steps need not find them."""
    there, not_there = np.sum(labels == 1, axis=0), np.sum(labels == 0, axis=0)
    odds = torch.from_numpy(np.log((there + 1.0) / (not_there + 10.0)).astype(np.float32))
    layer = net.classifier[3]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.bias.copy_(odds[: layer.out_features].clamp(-5, 3))
