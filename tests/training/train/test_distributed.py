"""Two gloo processes have the loss and the gradients of one with twice the batch, and train as it does."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.train.checkpoint import load
from training.train.distributed import Ranks, averaged, gathered, ranks, wait
from training.train.run import CHECKPOINT

TABLES = Path(__file__).parents[1] / "tables.py"

PROGRAM = """
import runpy
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from training.models.kinds import Codebook, SSLConfig
from training.models.ssl import Pretraining
from training.train.distributed import ranks
from training.train.folds import Split
from training.train.objectives import pretraining_loss
from training.train.recipes import smoke_pretrain
from training.train.run import run

class Step(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, masked, negatives):
        return pretraining_loss(self.net.pretrain(x, masked, negatives, 2.0)).total


def step_of(here, path):
    generator = torch.Generator().manual_seed(0)
    config = SSLConfig(0, 12, (16,) * 4, 32, 2, 4, 64, 16, 4, feature_gradient=0.1)
    net = Pretraining(config, Codebook(2, 8, 6, 12))
    net.initialise(generator)
    net.eval()  # no dropout, no Gumbel noise: what differs is only who holds what
    x = torch.randn(8, 12, 1250, generator=generator)
    masked = torch.zeros(8, 78, dtype=torch.bool)
    masked[:, 20:40] = True
    negatives = torch.randint(20, (8, 20, 10), generator=generator)
    mine = slice(here.rank * 8 // here.count, (here.rank + 1) * 8 // here.count)
    step = Step(net)
    step = DistributedDataParallel(step) if here.count > 1 else step
    loss = step(x[mine], masked[mine], negatives[mine])
    loss.backward()
    if here.first:
        gradients = {key: p.grad for key, p in net.named_parameters()}
        torch.save({"loss": loss.detach(), "gradients": gradients}, path)


def run_of(here, folder, tables):
    table = runpy.run_path(tables)["in_memory"](
        np.random.default_rng(0).normal(0, 0.3, (32, 12, 500)).astype(np.float32), np.ones((32, 12), bool),
        np.full((32, 77), -1, np.int8), [f"p{i}" for i in range(32)])
    every = np.arange(32)
    run(smoke_pretrain(), table, Split(every, every[:0], every[:0]), folder, ranks=here, progress=False)


def main(folder, tables):
    folder.mkdir(exist_ok=True)
    with ranks() as here:
        step_of(here, folder / "step.pt")
        run_of(here, folder / "run", tables)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
"""


def test_two_processes_compute_and_train_as_one(tmp_path: Path) -> None:
    """The same loss, gradients and steps: one process is this one, two are started as a user starts them."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    runpy.run_path(str(program))["main"](tmp_path / "1", str(TABLES))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, str(program), str(tmp_path / "2"), str(TABLES)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]

    one, two = (torch.load(tmp_path / name / "step.pt", weights_only=True) for name in "12")
    torch.testing.assert_close(two["loss"], one["loss"], rtol=1e-6, atol=1e-6)
    assert two["gradients"].keys() == one["gradients"].keys()
    for key, value in one["gradients"].items():
        if value is None:  # the quantiser's own weights have no gradient without Gumbel noise
            continue
        torch.testing.assert_close(two["gradients"][key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")

    one, two = (load(tmp_path / name / "run" / CHECKPOINT) for name in "12")
    assert one["step"] == two["step"] == 6
    assert one["history"][-1]["loss"] == pytest.approx(two["history"][-1]["loss"], rel=0.2)
    assert (tmp_path / "2" / "run" / "model" / "config.json").is_file()


def test_a_process_by_itself_is_rank_0_of_1() -> None:
    x = torch.arange(3.0)
    with ranks() as here:
        assert here == Ranks(0, 1, torch.device("cpu"))
        assert here.first
        assert gathered(x) is x
        assert averaged(x) is x
        wait()
