"""What is known of a network before its tensors: its family, its task and its sizes. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agent.core.labels import LABEL_NAMES

Family = Literal["sl", "ssl", "ssl-pretraining", "bert"]

NAMES: Mapping[Family, str] = {
    "sl": "DeepECG-SL",
    "ssl": "DeepECG-SSL",
    "ssl-pretraining": "DeepECG-SSL's pretraining network",
    "bert": "the report classifier",
}

UNITS_PER_MV: Mapping[Family, float] = {"sl": 1 / 0.0048, "ssl": 1.0, "ssl-pretraining": 1.0}
"""Input of the published networks: SL in ADC counts of 4.8 µV, SSL in mV."""

DIAGNOSES = "77 diagnoses"
TASKS: Mapping[str, tuple[str, ...]] = {
    DIAGNOSES: LABEL_NAMES,
    "lvef_40": ("LVEF ≤ 40",),
    "lvef_50": ("LVEF < 50",),
    "af_5y": ("iAF5",),
    "lqts": ("LQTS",),
    "lqts_type": ("LQTS TYPE",),
    "lvef": ("LVEF",),
    "pretraining": (),
}
"""Tasks that the paper has, with the names of their outputs; a task of another name brings its own labels."""


@dataclass(frozen=True, slots=True)
class ConvBlock:
    """One block of the body."""

    out: int
    kernel: int
    stride: int = 1
    expanded: int | None = None
    """Width of the depthwise convolution; None for a fused block, which has a full convolution and no expansion."""


@dataclass(frozen=True, slots=True)
class SLConfig:
    """Sizes of the network. The defaults are the released configuration: 1,508,235 parameters with 77 labels."""

    labels: int = 77
    stem: int = 12
    blocks: tuple[ConvBlock, ...] = ()
    tail: int = 640
    leads: int = 12
    stem_kernel: int = 3
    drop_path: float = 0.304
    """Probability that the residual branch of a sample is dropped while training (stochastic depth)."""


def stage(out: int, count: int, kernel: int, stride: int, *, expansion: float | None, width_in: int) -> list[ConvBlock]:
    """`count` blocks of one width, the first with `stride`; expansion None makes fused blocks."""
    blocks = []
    for i in range(count):
        wide = width_in if i == 0 else out
        blocks.append(
            ConvBlock(out, kernel, stride if i == 0 else 1, None if expansion is None else int(wide * expansion))
        )
    return blocks


def released(labels: int = 77) -> SLConfig:
    """The released network: fused 12×2, 24×4, 32×4, 64×6, then MBConv 80×8 and 128×10 with expansion 2."""
    blocks = [
        *stage(12, 2, 3, 1, expansion=None, width_in=12),
        *stage(24, 4, 3, 1, expansion=None, width_in=12),
        *stage(32, 4, 5, 2, expansion=None, width_in=24),
        *stage(64, 6, 3, 2, expansion=None, width_in=32),
        *stage(80, 8, 5, 2, expansion=2, width_in=64),
        *stage(128, 10, 3, 2, expansion=2, width_in=80),
    ]
    return SLConfig(labels=labels, blocks=tuple(blocks))


Head = Literal["linear", "attentive"]


@dataclass(frozen=True, slots=True)
class SSLConfig:
    """Sizes of the network, and what acts in training only. The defaults are the published fine-tuning's: 90,432,461
    parameters with 77 labels."""

    labels: int = 77
    """Outputs of the head; 0 for the encoder alone."""
    leads: int = 12
    convolutions: tuple[int, ...] = (256, 256, 256, 256)
    """Widths of the tokeniser's convolutions, each of kernel 2 and stride 2: 16 samples a token."""
    width: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072
    position_kernel: int = 128
    position_groups: int = 16
    head: Head = "linear"
    """``linear``: mean over time, then a linear layer (published); ``attentive``: learned weights over time instead."""
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.1
    input_dropout: float = 0.0
    """Of the projected tokens."""
    feature_gradient: float = 0.0
    """Factor of the gradient that reaches the tokeniser; 0 freezes it."""


@dataclass(frozen=True, slots=True)
class Codebook:
    """Sizes of what only pretraining has. The defaults are the published ones."""

    groups: int = 2
    codes: int = 320
    """In each group."""
    width: int = 128
    """Of a code; a token's target is one code of each group, concatenated."""
    final: int = 256
    """Width in which context and target are compared."""
    feature_dropout: float = 0.1
    """Of the tokens that are quantised."""
