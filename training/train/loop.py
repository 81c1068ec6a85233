"""The training loop: one learner, the batches of any step, and the weights at the end.

    outcome = fit(learner, batches, recipe, steps, folder / "checkpoint.pt", identity, validate=score)

A step is: micro-batches forward and backward, one move of the weights, their running mean, now and then a validation
and a checkpoint. All randomness comes from (recipe, step), so on a CPU a run that was stopped and resumed ends with the
very same bits as one that was not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from training.train.batches import Batch, Batches, prefetched
from training.train.checkpoint import load, save
from training.train.distributed import Ranks, from_first, wait
from training.train.learners import Learner, Parts
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
    stepper = _Stepper(learner, recipe, steps, here)
    run = _Progress(learner, recipe, steps)
    if checkpoint.exists():
        _resume(checkpoint, identity, stepper, run, here)
    last = steps if stop_after is None else min(steps, stop_after)
    title = checkpoint.parent.name or recipe.name
    silent = not (progress and here.first)
    with tqdm(total=steps, initial=run.step, desc=title, unit="step", disable=silent, mininterval=5) as bar:
        if not run.ended:
            for micro_batches in prefetched(batches, run.step, last, recipe.accumulate, here.device):
                parts = stepper(run.step, micro_batches)
                run.advance()
                if run.step % LOG_EVERY == 0 or run.step == steps:
                    run.log(parts)
                    bar.set_postfix({name: f"{float(value):.4g}" for name, value in parts.items()}, refresh=False)
                bar.update()
                if validate is not None and (run.step % max(1, validate_every) == 0 or run.step == steps):
                    run.judge(from_first(partial(_validated, learner, run.state, validate), here))
                if run.step % recipe.checkpoint_every == 0 or run.step == last or run.ended:
                    _write(checkpoint, identity, stepper, run, here)
                if run.ended:
                    break
    return run.outcome()


class _Stepper:
    """One step of the optimiser: rate, gradients of every micro-batch, clipping, the move of the weights."""

    def __init__(self, learner: Learner, recipe: Recipe, steps: int, here: Ranks) -> None:
        device = here.device
        if recipe.precision == "f16" and device.type != "cuda":
            raise ValueError("f16 needs a GPU; pass --precision bf16 (or f32)")
        self.learner, self.recipe, self.steps, self.here = learner, recipe, steps, here
        learner.train()
        self.module: nn.Module = learner
        if here.count > 1:
            self.module = DistributedDataParallel(learner, device_ids=[device.index] if device.type == "cuda" else None)
        self.optimiser = optimiser_of(learner, recipe.optimiser)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "f16")
        self.cast = torch.autocast(device.type, DTYPES.get(recipe.precision), enabled=recipe.precision in DTYPES)

    def __call__(self, step: int, micro_batches: Sequence[Batch]) -> Parts:
        """Move the weights by one step, and give the parts of its loss.

        Raises:
            ValueError: the loss is no longer finite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe.optimiser, step, self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        parts = self._gradients(step, micro_batches)
        if not bool(torch.isfinite(parts["loss"])):
            raise ValueError(f"the loss is {float(parts['loss'])} at step {step}; lower the recipe's rate")
        self.scaler.unscale_(self.optimiser)
        if self.recipe.optimiser.clip:
            nn.utils.clip_grad_norm_(self.learner.parameters(), self.recipe.optimiser.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return parts

    def _gradients(self, step: int, micro_batches: Sequence[Batch]) -> Parts:
        """Add up the gradients of the micro-batches; the mean of each part of their losses."""
        count = len(micro_batches)
        parts: Parts = {}
        for i, batch in enumerate(micro_batches):
            # Of dropout and stochastic depth: another seed for each step, micro-batch and rank.
            torch.manual_seed(((self.recipe.seed * 1_000_003 + step) * 64 + i) * 1024 + self.here.rank)
            with self._ranks_wait(last=i + 1 == count):
                with self.cast:
                    found = self.module(batch, step)
                self.scaler.scale(found["loss"] / count).backward()
            for name, value in found.items():
                before = parts.get(name, torch.zeros((), device=self.here.device))
                parts[name] = before + value.detach() / count
        return parts

    def _ranks_wait(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over the ranks once a step, with those of its last micro-batch."""
        if isinstance(self.module, DistributedDataParallel) and not last:
            alone: AbstractContextManager[None] = self.module.no_sync()
            return alone
        return nullcontext()


class _Progress:
    """How far a run has come: its step, running mean, best state and log. All of it is in a checkpoint."""

    def __init__(self, learner: Learner, recipe: Recipe, steps: int) -> None:
        self.net, self.recipe, self.steps = learner.net, recipe, steps
        self.step, self.score, self.waited = 0, -math.inf, 0
        self.mean: State | None = copy_of(self.net.state_dict()) if recipe.ema else None
        self.best: State | None = None
        self.history: list[dict[str, float]] = []

    @property
    def state(self) -> State:
        """What is validated and kept: the running mean, or the weights themselves."""
        return self.mean if self.mean is not None else self.net.state_dict()

    @property
    def ended(self) -> bool:
        """All steps are done, or patience is at its end."""
        return self.step >= self.steps or bool(self.recipe.patience and self.waited >= self.recipe.patience)

    def advance(self) -> None:
        """Count a step, and move the running mean towards the weights: at first faster than its decay says."""
        self.step += 1
        if self.mean is not None:
            move_mean(self.mean, self.net.state_dict(), min(self.recipe.ema, self.step / (self.step + 9)))

    def log(self, parts: Parts) -> None:
        """Note the parts of a step's loss."""
        self.history.append({"step": self.step, **{name: float(value) for name, value in parts.items()}})

    def judge(self, score: float) -> None:
        """Note a validation, and keep the state if none was better."""
        self.history.append({"step": self.step, "score": score})
        self.waited += 1
        if score > self.score:
            self.best, self.score, self.waited = copy_of(self.state), score, 0

    def outcome(self) -> Outcome:
        """What the run gives if nothing more is done."""
        state = self.best if self.best is not None else copy_of(self.state)
        score = self.score if self.best is not None else math.nan
        return Outcome(state, self.step, score, self.history, self.ended)


def _write(checkpoint: Path, identity: str, stepper: _Stepper, run: _Progress, here: Ranks) -> None:
    """Write all that `_resume` needs, by the first rank; the others wait."""
    if here.first:
        content = {
            "identity": identity,
            "step": run.step,
            "net": run.net.state_dict(),
            "optimiser": stepper.optimiser.state_dict(),
            "scaler": stepper.scaler.state_dict(),
            "mean": run.mean,
            "best": run.best,
            "score": run.score,
            "waited": run.waited,
            "history": run.history,
        }
        save(checkpoint, content)
        checkpoint.with_name("log.json").write_text(json.dumps(run.history, indent=0) + "\n", "utf-8")
    wait()


def _resume(checkpoint: Path, identity: str, stepper: _Stepper, run: _Progress, here: Ranks) -> None:
    """Take up a run where its checkpoint left it.

    Raises:
        ValueError: the checkpoint is of another run.
    """
    saved = load(checkpoint)
    if saved["identity"] != identity:
        raise ValueError(f"{checkpoint} is of another recipe or other data; take another folder, or remove it")
    run.net.load_state_dict(saved["net"])
    stepper.optimiser.load_state_dict(saved["optimiser"])
    stepper.scaler.load_state_dict(saved["scaler"])
    run.mean = {key: value.to(here.device) for key, value in saved["mean"].items()} if saved["mean"] else None
    run.best, run.history = saved["best"], saved["history"]
    run.step, run.score, run.waited = saved["step"], saved["score"], saved["waited"]


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
