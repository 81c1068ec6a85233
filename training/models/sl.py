"""DeepECG-SL: a 1-D EfficientNetV2 over twelve leads.

After the public code of Nolin-Lapalme et al., European Heart Journal 2026, ehaf1119. The module's parameter names are
those of the published files, so a published state dict loads as it is, and every size is read from the tensors' shapes:

    net = sl_from_state(state)            # any depth, width, expansion and number of labels
    logits = net(x)                       # x (B, 12, T) float32 in network units (mV / 0.0048), T = 2500 at 250 Hz

Shapes in comments: B windows, C channels, E expanded channels, T samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.models.kinds import ConvBlock, SLConfig

LEAKY_SLOPE = 0.01


class Norm(nn.Module):
    """Batch normalisation under the name that the published files give it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.norm(x)
        return out


def convolution(
    width_in: int, width: int, kernel: int, stride: int = 1, groups: int = 1, *, act: bool
) -> nn.Sequential:
    """Convolution without bias, batch normalisation and, with `act`, the leaky rectifier."""
    conv = nn.Conv1d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, Norm(width)]
    if act:
        layers.append(nn.LeakyReLU(LEAKY_SLOPE))
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Channel gates from the mean over time."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool1d(1),  # (B, C, 1)
            nn.Conv1d(width, squeezed, 1),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Conv1d(squeezed, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        gates: Tensor = self.se(x)
        return x * gates


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Stochastic depth: whole samples of a residual branch are zeroed, the others scaled to keep the mean."""
    keep = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(1.0 - rate)
    return x * keep / (1.0 - rate)


class FusedBlock(nn.Module):
    """One full convolution, then squeeze and excitation. The published network expands nothing here."""

    def __init__(self, width_in: int, block: ConvBlock, drop_rate: float) -> None:
        super().__init__()
        self.fused_conv = convolution(width_in, block.out, block.kernel, block.stride, act=True)
        self.se = SqueezeExcite(block.out, block.out // 4)
        self.residual = width_in == block.out and block.stride == 1
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y: Tensor = self.se(self.fused_conv(x))
        if not self.residual:
            return y
        return x + (drop_path(y, self.drop_rate) if self.training and self.drop_rate > 0 else y)


class MBConvBlock(nn.Module):
    """Expand 1×1, depthwise over time, squeeze and excitation, project 1×1."""

    def __init__(self, width_in: int, block: ConvBlock, expanded: int, drop_rate: float) -> None:
        super().__init__()
        # A state without this key (expansion 1) has the depthwise convolution work on the input itself.
        self.expand_conv = convolution(width_in, expanded, 1, act=True) if expanded != width_in else nn.Identity()
        self.depthwise_conv = convolution(expanded, expanded, block.kernel, block.stride, groups=expanded, act=True)
        self.se = SqueezeExcite(expanded, expanded // 4)
        self.project_conv = convolution(expanded, block.out, 1, act=False)
        self.residual = width_in == block.out and block.stride == 1
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y: Tensor = self.expand_conv(x)  # (B, E, T)
        y = self.project_conv(self.se(self.depthwise_conv(y)))  # (B, C, T / stride)
        if not self.residual:
            return y
        return x + (drop_path(y, self.drop_rate) if self.training and self.drop_rate > 0 else y)


class DeepECGSL(nn.Module):
    """The whole network: (B, 12, T) in network units to (B, labels) logits. The sigmoid is the caller's."""

    def __init__(self, config: SLConfig) -> None:
        super().__init__()
        self.config = config
        self.initial_conv = convolution(config.leads, config.stem, config.stem_kernel, act=True)
        body: list[nn.Module] = []
        width = config.stem
        for block in config.blocks:
            if block.expanded is None:
                body.append(FusedBlock(width, block, config.drop_path))
            else:
                body.append(MBConvBlock(width, block, block.expanded, config.drop_path))
            width = block.out
        self.features = nn.Sequential(*body)
        self.final_conv = nn.Conv1d(width, config.tail, 1)
        self.final_norm = Norm(config.tail)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Identity(), nn.Linear(config.tail, config.labels)
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.initial_conv(x)  # (B, 12, 2500)
        x = self.features(x)  # (B, 128, 157)
        x = self.final_norm(self.final_conv(x))  # (B, 640, 157), no activation
        logits: Tensor = self.classifier(x)  # (B, 77)
        return logits

    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights as in the published fine-tuning: kaiming (fan out) convolutions, xavier linear."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)


def config_from_state(state: Mapping[str, Tensor]) -> SLConfig:
    """Read every size from the tensors' shapes.

    Strides leave no trace in a shape. In this family the stages' kernels are 3, 3, 5, 3, 5, 3 with first strides 1, 1,
    2, 2, 2, 2, so that time is halved exactly where the kernel size changes from one block to the next.

    Raises ValueError if the state is not of this family.
    """
    try:
        stem, leads, kernel = state["initial_conv.0.weight"].shape
        tail = state["final_conv.weight"].shape[0]
        labels = state["classifier.3.weight"].shape[0]
    except KeyError as e:
        raise ValueError(
            f"no tensor {e.args[0]!r} in the state; give the state dict of a DeepECG-SL network "
            "(not of DeepECG-SSL, an optimiser or a whole checkpoint)"
        ) from None
    blocks: list[ConvBlock] = []
    before = kernel
    while True:
        key = f"features.{len(blocks)}"
        if (fused := state.get(f"{key}.fused_conv.0.weight")) is not None:
            out, _, kernel = fused.shape
            expanded = None
        elif (depthwise := state.get(f"{key}.depthwise_conv.0.weight")) is not None:
            expanded, _, kernel = depthwise.shape
            out = state[f"{key}.project_conv.0.weight"].shape[0]
        else:
            break
        blocks.append(ConvBlock(out, kernel, 1 if kernel == before else 2, expanded))
        before = kernel
    return SLConfig(labels, stem, tuple(blocks), tail, leads, state["initial_conv.0.weight"].shape[2])


def sl_from_state(state: Mapping[str, Tensor]) -> DeepECGSL:
    """The network that a state dict describes, with its weights, in evaluation mode.

    Some published files name the last layer ``classifier.fc1``; it is read as ``classifier.3``.
    Raises ValueError if the state is not one of DeepECG-SL.
    """
    state = {key.replace("classifier.fc1.", "classifier.3."): tensor for key, tensor in state.items()}
    net = DeepECGSL(config_from_state(state))
    try:
        net.load_state_dict(state)
    except RuntimeError as e:
        raise ValueError(f"the tensors do not fit DeepECG-SL: {str(e).splitlines()[-1].strip()}") from None
    return net.eval()
