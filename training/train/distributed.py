"""Several processes that train one network: started by ``torchrun``, or a process by itself.

Every rank computes the same global loss from what it holds and what it gathers here; gradients flow back through the
gathering, so that after DDP's mean over ranks each parameter has exactly the gradient of one process with the whole
batch. A process that was not started by ``torchrun`` is rank 0 of 1, and nothing here then costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_collective: Any = import_module("torch.distributed.nn.functional")
"""The collectives with gradients; untyped in torch."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """True for the one process that writes files and draws the progress bar."""
        return self.rank == 0


@contextmanager
def ranks(device: str = "cpu") -> Iterator[Ranks]:
    """Join the others, if ``torchrun`` started this process; ``device`` is ``cpu`` or ``cuda``.

    NCCL between GPUs, gloo between processors.
    """
    cuda = device.startswith("cuda")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(device=torch.device(device))
        return
    here = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(here)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), here)
        wait()  # a rank that left while another still works could take the connections of both with it
    finally:
        dist.destroy_process_group()


def gathered(x: Tensor) -> Tensor:
    """(ranks * B, …): the tensors (B, …) of all ranks in their order, of the same shape on each."""
    if not dist.is_initialized():
        return x
    out: Tensor = torch.cat(_collective.all_gather(x.contiguous()))
    return out


def averaged(x: Tensor) -> Tensor:
    """The mean over ranks."""
    if not dist.is_initialized():
        return x
    out: Tensor = _collective.all_reduce(x) / dist.get_world_size()
    return out


def from_first(compute: Callable[[], float], here: Ranks) -> float:
    """A number that the first rank computes while the others wait, told to all, so that all decide the same."""
    if not dist.is_initialized():
        return compute()
    value = torch.tensor(compute() if here.first else 0.0, dtype=torch.float64, device=here.device)
    dist.broadcast(value, 0)
    return float(value)


def wait() -> None:
    """Return when every rank has come here."""
    if dist.is_initialized():
        dist.barrier()
