"""Small networks with random weights in every layout in which the real ones are published, and a canary."""

from __future__ import annotations

import sys
import types
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from training.models.kinds import Codebook, ConvBlock, SLConfig, SSLConfig
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL, Pretraining

SL_BLOCKS = (ConvBlock(8, 3), ConvBlock(12, 5, 2), ConvBlock(12, 5), ConvBlock(16, 3, 2, 24))
TINY_SSL = SSLConfig(5, 12, (16,) * 4, 32, 2, 4, 64, 16, 4)


def shaken(net: Any) -> Any:
    """Every tensor of the network random, the running statistics too."""
    generator = torch.Generator().manual_seed(1)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.5 + 0.2 * torch.randn(tensor.shape, generator=generator).abs())
    return net.eval()


def tiny_sl(labels: int) -> DeepECGSL:
    net: DeepECGSL = shaken(DeepECGSL(SLConfig(labels=labels, stem=8, blocks=SL_BLOCKS, tail=32)))
    return net


def tiny_ssl(labels: int) -> DeepECGSSL:
    net = DeepECGSSL(replace(TINY_SSL, labels=labels))
    net.initialise(torch.Generator().manual_seed(2))
    return net.eval()


def tiny_pretraining() -> Pretraining:
    net = Pretraining(replace(TINY_SSL, labels=0), Codebook(2, 8, 6, 12))
    net.initialise(torch.Generator().manual_seed(3))
    return net.eval()


def window(samples: int = 2500) -> torch.Tensor:
    return torch.randn(2, 12, samples, generator=torch.Generator().manual_seed(4))


def model_settings(net: DeepECGSSL | Pretraining) -> dict[str, Any]:
    """fairseq's settings of the model."""
    c = net.config
    found = {
        "_name": "ecg_transformer_classifier",
        "encoder_layers": c.layers,
        "encoder_embed_dim": c.width,
        "encoder_ffn_embed_dim": c.feed_forward,
        "encoder_attention_heads": c.heads,
        "layer_norm_first": False,
        "extractor_mode": "default",
        "conv_feature_layers": "[(16, 2, 2)] * 4",
        "in_d": 12,
        "conv_bias": False,
        "conv_pos": c.position_kernel,
        "conv_pos_groups": c.position_groups,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.1,
        "dropout_input": 0.0,
        "feature_grad_mult": 0.0,
        "model_path": "/somewhere/SSL_pretrained.pt",
        "normalize": False,
    }
    if isinstance(net, Pretraining):
        return found | {
            "_name": "wav2vec2_cmsc",
            "latent_vars": net.codebook.codes,
            "latent_groups": net.codebook.groups,
            "final_dim": net.codebook.final,
            "feature_grad_mult": 0.1,
            "dropout_features": 0.1,
        }
    return found | {"num_labels": c.labels}


@contextmanager
def package(name: str, **classes: type) -> Iterator[types.ModuleType]:
    """A package that can be imported while a file is written, and not while it is read."""
    module = types.ModuleType(name)
    for key, cls in classes.items():
        cls.__module__, cls.__qualname__ = name, key
        setattr(module, key, cls)
    sys.modules[name] = module
    try:
        yield module
    finally:
        del sys.modules[name]


def fairseq(
    net: DeepECGSSL | Pretraining,
    *,
    settings: Any = "cfg",
    criterion: str = "binary_cross_entropy_with_logits",
    optimiser: bool = True,
) -> dict[str, Any]:
    """What fairseq's trainer saves. ``settings``: "cfg", "args", "none", or an object to be the cfg itself."""
    cfg: Any = {
        "_name": None,
        "common": {"fp16": True, "seed": 1},
        "model": model_settings(net),
        "task": {"_name": "ecg_classification", "normalize": False, "p": [1.0]},
        "criterion": {"_name": criterion, "weight": None},
    }
    args = None
    if settings == "args":
        args, cfg = Namespace(**model_settings(net), criterion=criterion), None
    elif settings == "none":
        cfg = None
    elif settings != "cfg":
        cfg = settings
    moments = {
        i: {"step": 7, "exp_avg": torch.randn_like(p), "exp_avg_sq": torch.rand_like(p)}
        for i, p in enumerate(net.parameters())
    }
    return {
        "args": args,
        "cfg": cfg,
        "model": net.state_dict(),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "X", "optimizer_name": "FP16Optimizer", "num_updates": 7}],
        "task_state": {},
        "extra_state": {
            "metrics": OrderedDict([("default", [(10, "loss", "AverageMeter", {"val": np.float32(0.5), "count": 3})])]),
            "train_iterator": {"epoch": 3, "iterations_in_epoch": 0, "shuffle": True},
            "val_loss": np.float64(0.25),
        },
        "last_optimizer_state": {"state": moments, "param_groups": [{"lr": 5e-05, "betas": (0.9, 0.98)}]}
        if optimiser
        else None,
    }


class Wrapper(nn.Module):
    """A parent that holds the network under a name of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"ecg": net})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone["ecg"](x)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    """The builders above."""
    return SimpleNamespace(
        sl=tiny_sl,
        ssl=tiny_ssl,
        pretraining=tiny_pretraining,
        window=window,
        settings=model_settings,
        fairseq=fairseq,
        package=package,
        wrapper=Wrapper,
    )


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists only if something hostile ran."""
    return tmp_path / "canary"


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes an object as `torch.save` does."""

    def _save(value: Any, name: str = "weights.pt", **options: Any) -> Path:
        path = tmp_path / name
        torch.save(value, path, **options)
        return path

    return _save
