"""The training loop: one learner, the batches of any step, and the weights at the end.

    outcome = fit(learner, batches, recipe, steps, folder / "checkpoint.pt", identity, validate=score)

A step is: micro-batches forward and backward, one move of the weights, their running mean, now and then a validation
and a checkpoint. All randomness comes from (recipe, step), so on a CPU a run that was stopped and resumed ends with the
very same bits as one that was not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from training.train.batches import Batches, ahead
from training.train.checkpoint import load, save
from training.train.distributed import Ranks, from_first, wait
from training.train.learners import Learner
from training.train.recipes import Optimiser, Precision, Recipe

State = dict[str, Tensor]
Validate = Callable[[nn.Module], float]
"""Score of a network in evaluation mode, higher is better."""

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "f16": torch.float16}
LOG_EVERY = 25
"""Steps from one entry of the log to the next."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a run gives."""

    state: State
    """The best validated state; without validation the running mean, or the last one."""
    step: int
    """Steps done."""
    score: float
    """Of the state, NaN without validation."""
    history: list[dict[str, float]]
    """Of every `LOG_EVERY` steps the parts of the loss, of every validation its score."""
    finished: bool


def learning_rate(optimiser: Optimiser, step: int, steps: int) -> float:
    """Linear warm-up, then constant or half a cosine down to zero at the last step."""
    warm = round(optimiser.warm_up * steps)
    if step < warm:
        return optimiser.rate * (step + 1) / warm
    if optimiser.schedule == "constant":
        return optimiser.rate
    return optimiser.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def optimiser_of(learner: nn.Module, settings: Optimiser) -> torch.optim.AdamW:
    """AdamW over what is to be trained; vectors (biases, norms) do not decay."""
    trained = [p for p in learner.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.rate, betas=settings.betas, eps=settings.eps)


def copy_of(state: State) -> State:
    """A copy that no later step changes."""
    return {key: value.detach().clone() for key, value in state.items()}


def move_mean(mean: State, now: State, decay: float) -> None:
    """Running mean of weights and statistics, in place; ``mean`` owns its tensors."""
    for key, value in now.items():
        if value.is_floating_point():
            mean[key].lerp_(value, 1.0 - decay)
        else:
            mean[key].copy_(value)


def fit(
    learner: Learner,
    batches: Batches,
    recipe: Recipe,
    steps: int,
    checkpoint: Path,
    identity: str,
    *,
    ranks: Ranks | None = None,
    validate: Validate | None = None,
    validate_every: int = 0,
    stop_after: int | None = None,
    progress: bool = True,
) -> Outcome:
    """Run the recipe for ``steps``, from the checkpoint where there is one.

    Args:
        learner: On the ranks' device; its ``net`` holds the weights at the start, and the last state at the end.
        batches: Of any step.
        recipe: How to optimise, in which precision, what to keep.
        steps: In all.
        checkpoint: Written every ``recipe.checkpoint_every`` steps and at the end; ``log.json`` stands beside it.
        identity: What a checkpoint must agree with to be gone on with: recipe, data, split.
        ranks: This process among those that train together.
        validate: Called by the first rank every ``validate_every`` steps and at the end, on the running mean if there
            is one. After ``recipe.patience`` calls without a better score the run ends.
        validate_every: Steps.
        stop_after: End early without being finished, as an interruption would.
        progress: Draw a bar.

    Raises:
        ValueError: the checkpoint is of another run, the precision is none of this device's, or the loss is no longer
            finite.
    """
    here = ranks or Ranks()
    device = here.device
    if recipe.precision == "f16" and device.type != "cuda":
        raise ValueError("f16 needs a GPU; pass --precision bf16 (or f32)")
    net = learner.net
    learner.train()
    module: nn.Module = learner
    if here.count > 1:
        module = DistributedDataParallel(learner, device_ids=[device.index] if device.type == "cuda" else None)
    optimiser = optimiser_of(learner, recipe.optimiser)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "f16")
    cast = torch.autocast(device.type, DTYPES.get(recipe.precision), enabled=recipe.precision in DTYPES)

    mean = copy_of(net.state_dict()) if recipe.ema else None
    best: State | None = None
    step, score, waited = 0, -math.inf, 0
    history: list[dict[str, float]] = []
    if checkpoint.exists():
        saved = load(checkpoint)
        if saved["identity"] != identity:
            raise ValueError(f"{checkpoint} is of another recipe or other data; take another folder, or remove it")
        net.load_state_dict(saved["net"])
        optimiser.load_state_dict(saved["optimiser"])
        scaler.load_state_dict(saved["scaler"])
        mean = {key: value.to(device) for key, value in saved["mean"].items()} if saved["mean"] else None
        best, history = saved["best"], saved["history"]
        step, score, waited = saved["step"], saved["score"], saved["waited"]

    def write() -> None:
        if here.first:
            content = {
                "identity": identity,
                "step": step,
                "net": net.state_dict(),
                "optimiser": optimiser.state_dict(),
                "scaler": scaler.state_dict(),
                "mean": mean,
                "best": best,
                "score": score,
                "waited": waited,
                "history": history,
            }
            save(checkpoint, content)
            checkpoint.with_name("log.json").write_text(json.dumps(history, indent=0) + "\n", "utf-8")
        wait()

    def ended() -> bool:
        return step >= steps or bool(recipe.patience and waited >= recipe.patience)

    last = steps if stop_after is None else min(steps, stop_after)
    bar = tqdm(
        total=steps,
        initial=step,
        desc=checkpoint.parent.name or recipe.name,
        unit="step",
        disable=not (progress and here.first),
        mininterval=5,
    )
    if not ended():
        for micro_batches in ahead(batches, step, last, recipe.accumulate, device):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe.optimiser, step, steps)
            optimiser.zero_grad(set_to_none=True)
            parts: dict[str, Tensor] = {}
            for i, batch in enumerate(micro_batches):
                torch.manual_seed(((recipe.seed * 1_000_003 + step) * 64 + i) * 1024 + here.rank)  # dropout, depth
                several = isinstance(module, DistributedDataParallel) and i + 1 < len(micro_batches)
                with module.no_sync() if several else nullcontext():  # type: ignore[operator]
                    with cast:
                        found = module(batch, step)
                    scaler.scale(found["loss"] / len(micro_batches)).backward()
                for name, value in found.items():
                    parts[name] = parts.get(name, torch.zeros((), device=device)) + value.detach() / len(micro_batches)
            if not bool(torch.isfinite(parts["loss"])):
                raise ValueError(f"the loss is {float(parts['loss'])} at step {step}; lower the recipe's rate")
            scaler.unscale_(optimiser)
            if recipe.optimiser.clip:
                nn.utils.clip_grad_norm_(learner.parameters(), recipe.optimiser.clip)
            scaler.step(optimiser)
            scaler.update()
            step += 1
            if mean is not None:
                move_mean(mean, net.state_dict(), min(recipe.ema, step / (step + 9)))
            if step % LOG_EVERY == 0 or step == steps:
                history.append({"step": step, **{name: float(value) for name, value in parts.items()}})
                bar.set_postfix({name: f"{float(value):.4g}" for name, value in parts.items()}, refresh=False)
            bar.update()
            if validate is not None and (step % max(1, validate_every) == 0 or step == steps):
                state = mean if mean is not None else net.state_dict()
                found_score = from_first(partial(_validated, learner, state, validate), here)
                history.append({"step": step, "score": found_score})
                waited += 1
                if found_score > score:
                    best, score, waited = copy_of(state), found_score, 0
            if step % recipe.checkpoint_every == 0 or step == last or ended():
                write()
            if ended():
                break
    bar.close()
    state = best if best is not None else copy_of(mean if mean is not None else net.state_dict())
    return Outcome(state, step, score if best is not None else math.nan, history, ended())


def _validated(learner: Learner, state: State, validate: Validate) -> float:
    """The score of a state, after which the learner is as it was, its own tensors untouched."""
    own = learner.net.state_dict()
    kept = copy_of(own)
    learner.net.load_state_dict(state)
    learner.eval()
    score = validate(learner.net)
    learner.net.load_state_dict(kept)
    learner.train()
    return score
