"""Two gloo processes have the loss and the gradients of one with twice the batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from training.train.distributed import Ranks, averaged, gathered, ranks, wait

PROGRAM = """
import sys
import torch
from torch.nn.parallel import DistributedDataParallel
from training.train.distributed import ranks
from training.models.ssl import Codebook, Pretraining, SSLConfig
from training.train.objectives import pretraining_loss

class Step(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, masked, negatives):
        return pretraining_loss(self.net.pretrain(x, masked, negatives, 2.0)).total

with ranks() as here:
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
        torch.save({"loss": loss.detach(), "gradients": gradients}, sys.argv[1])
"""


def run(path: Path, processes: int) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
    program = path.with_suffix(".py")
    program.write_text(PROGRAM)
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*starter, str(program), str(path)] if processes > 1 else [sys.executable, str(program), str(path)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    content: dict[str, torch.Tensor | dict[str, torch.Tensor]] = torch.load(path, weights_only=True)
    return content


def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one.pt", 1), run(tmp_path / "two.pt", 2)
    torch.testing.assert_close(two["loss"], one["loss"], rtol=1e-6, atol=1e-6)
    gradients, expected = two["gradients"], one["gradients"]
    assert isinstance(gradients, dict)
    assert isinstance(expected, dict)
    assert gradients.keys() == expected.keys()
    for key, value in expected.items():
        if value is None:  # the quantiser's own weights have no gradient without Gumbel noise
            continue
        torch.testing.assert_close(gradients[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


def test_a_process_by_itself_is_rank_0_of_1() -> None:
    x = torch.arange(3.0)
    with ranks() as here:
        assert here == Ranks(0, 1, torch.device("cpu"))
        assert here.first
        assert gathered(x) is x
        assert averaged(x) is x
        wait()
