"""A run: from a recipe, a prepared dataset and a split of it to a model folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from agent.core.ecg import FloatArray
from training.data import WindowTable
from training.models.kinds import SLConfig, SSLConfig
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL, Pretraining, encoder_state
from training.models.weights import (
    Network,
    Provenance,
    config_of,
    family_of,
    load_network,
    published_preprocessing,
    save_network,
)
from training.train.batches import Batches, PretrainingBatches, SupervisedBatches
from training.train.distributed import Ranks
from training.train.folds import Split
from training.train.learners import Learner, SelfSupervised, Supervised, head_of
from training.train.loop import Outcome, fit
from training.train.recipes import Recipe
from training.train.sampling import Balanced, Index, Sampler, Shuffled
from training.train.tasks import REGRESSION, Truth, fit_of, is_known, outputs_of, truth_of

CHECKPOINT, MODEL = "checkpoint.pt", "model"
"""In the folder of a run."""

_ACTING = ("dropout", "attention_dropout", "activation_dropout", "input_dropout", "feature_gradient", "head", "labels")
"""Settings of an SSL network that are the recipe's; all others are sizes, which pretrained weights bring."""


def network_of(recipe: Recipe, start: Network | None = None) -> Network:
    """The recipe's network with fresh weights, or with those of ``start`` wherever it has them.

    ``start`` decides the sizes: a pretrained encoder or an SSL network for a recipe of SSL, an SL network for one of
    SL. A head of other outputs begins anew.

    Raises:
        ValueError: ``start`` is of the other family.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    labels = len(outputs_of(recipe.task))
    config = replace(recipe.network, labels=labels)
    if start is not None and isinstance(start, DeepECGSL) != isinstance(config, SLConfig):
        raise ValueError(f"the recipe {recipe.name!r} cannot begin with weights of {type(start).__name__}")
    net: Network
    if isinstance(config, SLConfig):
        if isinstance(start, DeepECGSL):
            config = replace(start.config, labels=labels, drop_path=config.drop_path)
        net = DeepECGSL(config)
        net.initialise(generator)
    else:
        if start is not None:
            sizes = {f.name: getattr(start.config, f.name) for f in fields(SSLConfig) if f.name not in _ACTING}
            config = replace(config, **sizes)
        net = Pretraining(config, recipe.codebook) if recipe.codebook else DeepECGSSL(config)
        net.initialise(generator)
    if start is not None:
        _begin_with(net, start)
    return net


def _begin_with(net: Network, start: Network) -> None:
    own, given = net.state_dict(), start.state_dict()
    if isinstance(net, DeepECGSSL):
        given = {f"encoder.{key}": value for key, value in encoder_state(given).items()} | {
            key: value for key, value in given.items() if key.startswith(("proj.", "pool."))
        }
    elif isinstance(net, Pretraining) and not isinstance(start, Pretraining):
        given = encoder_state(given)
    net.load_state_dict(own | {k: v for k, v in given.items() if k in own and v.shape == own[k].shape})


def start_of(path: Path | None, fold: str) -> Network | None:
    """The network to begin with: a model folder, or that of the same fold in a run."""
    if path is None:
        return None
    of_fold = path / fold / MODEL
    if of_fold.is_dir():
        return load_network(of_fold)
    return load_network(path / MODEL if (path / MODEL).is_dir() else path)


def start_from_prevalence(net: DeepECGSL | DeepECGSSL, truth: Truth) -> None:
    """Let the head begin at each label's log-odds among (n, L), or at a regression's mean."""
    known = is_known(truth)
    if truth.dtype.kind == "f":
        bias = np.array([np.nanmean(truth[known[:, i], i]) for i in range(truth.shape[1])])
    else:
        there, not_there = np.sum(truth == 1, axis=0), np.sum(truth == 0, axis=0)
        bias = np.clip(np.log((there + 1.0) / (not_there + 10.0)), -5, 3)
    with torch.no_grad():
        head_of(net).bias.copy_(torch.from_numpy(bias.astype(np.float32)))


def steps_of(recipe: Recipe, windows: int) -> tuple[int, int]:
    """Steps in all, and from one validation to the next, of a run on so many windows."""
    epoch = max(1, math.ceil(windows / recipe.batch))
    return recipe.steps or math.ceil(recipe.epochs * epoch), recipe.validate_every or epoch


def identity_of(recipe: Recipe, table: WindowTable, index: Index, truth: Truth | None) -> str:
    """What two starts of one run have in common: the recipe, and every window with what is known of it."""
    digest = hashlib.sha256()
    for column in (table.source[index], table.record[index], table.start[index]):
        digest.update(np.ascontiguousarray(column).tobytes())
    if truth is not None:
        digest.update(np.ascontiguousarray(truth[index]).tobytes())
    return f"{asdict(recipe) | {'checkpoint_every': 0}} {digest.hexdigest()}"


def outputs(
    net: nn.Module, table: WindowTable, index: Index, gain: float, *, batch: int = 64, progress: bool = False
) -> FloatArray:
    """(len(index), L) raw outputs of a network in evaluation mode for these windows."""
    device = next(net.parameters()).device
    found = []
    bar = range(0, len(index), batch)
    with torch.inference_mode():
        for first in tqdm(bar, desc="predict", unit="batch", disable=not progress, mininterval=5):
            x, _ = table.batch(index[first : first + batch])
            x *= np.float32(gain)
            found.append(net(torch.from_numpy(x).to(device)).float().cpu().numpy())
    return np.concatenate(found)


def _sampler(recipe: Recipe, table: WindowTable, truth: Truth, index: Index) -> Sampler:
    if recipe.sampling == "shuffled":
        return Shuffled(index, recipe.batch, recipe.seed)
    names = outputs_of(recipe.task)
    return Balanced(
        table,
        truth,
        index,
        recipe.batch,
        recipe.seed,
        twelve_lead_share=recipe.twelve_lead_share,
        emphasis={names.index(name): factor for name, factor in recipe.emphasis.items()},
    )


def run(
    recipe: Recipe,
    table: WindowTable,
    split: Split,
    folder: Path,
    *,
    start: Network | None = None,
    ranks: Ranks | None = None,
    stop_after: int | None = None,
    progress: bool = True,
) -> Outcome:
    """Train by the recipe on ``split.train``, and write ``folder/model`` when the run is finished.

    Raises:
        ValueError: see `training.train.loop.fit`, `training.train.tasks.truth_of` and `network_of`.
    """
    here = ranks or Ranks()
    net = network_of(recipe, start)
    gain = published_preprocessing(family_of(net)).gain
    index = split.train
    truth: Truth | None = None
    learner: Learner
    batches: Batches
    validate: Callable[[nn.Module], float] | None = None
    if isinstance(net, Pretraining):
        steps, every = steps_of(recipe, len(index))
        nothing = np.zeros((len(table), 1), np.int8)  # no label: patients weigh the same
        sampler = _sampler(recipe, table, nothing, index)
        learner = SelfSupervised(net, recipe.masking, recipe.temperature)
        batches = PretrainingBatches(table, sampler, recipe, net.config, gain, here)
    else:
        truth = truth_of(table, recipe.task)
        index = index[np.any(is_known(truth[index]), axis=1)]
        steps, every = steps_of(recipe, len(index))
        sampler = _sampler(recipe, table, truth, index)
        if recipe.prevalence_start or recipe.task == REGRESSION:
            start_from_prevalence(net, truth[index])
        learner = Supervised(net, recipe.loss, head_only=recipe.optimiser.head_only)
        batches = SupervisedBatches(table, truth, sampler, recipe, steps, gain, here)
        if recipe.patience:
            validate = partial(_score, table=table, index=split.validation, truth=truth[split.validation], gain=gain)
    learner.to(here.device)
    outcome = fit(
        learner,
        batches,
        recipe,
        steps,
        folder / CHECKPOINT,
        identity_of(recipe, table, index, truth),
        ranks=here,
        validate=validate,
        validate_every=every,
        stop_after=stop_after,
        progress=progress,
    )
    if outcome.finished and here.first:
        _save(net, outcome, recipe, table, gain, folder / MODEL)
    return outcome


def _score(net: nn.Module, *, table: WindowTable, index: Index, truth: Truth, gain: float) -> float:
    """How well the network's outputs for these windows fit their truth."""
    return fit_of(outputs(net, table, index, gain), truth)


def _save(net: Network, outcome: Outcome, recipe: Recipe, table: WindowTable, gain: float, folder: Path) -> None:
    """Write the model folder of a finished run."""
    net.load_state_dict(outcome.state)
    seconds = table.preprocessing.seconds / (2 if isinstance(net, Pretraining) else 1)
    config = config_of(
        net,
        task=recipe.task,
        labels=outputs_of(recipe.task),
        preprocessing=table.preprocessing.model_copy(update={"gain": gain, "seconds": seconds}),
        provenance=Provenance(origin=f"recipe {recipe.name}, seed {recipe.seed}, step {outcome.step}"),
    )
    save_network(net.cpu(), folder, config)
