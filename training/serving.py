"""DeepECG-SL in the form that is fastest to serve: the same function, rearranged. Only compiling uses it.

Two rearrangements, both exact but for rounding (in float64, 1e-12):

- **Convolutions over one row of a picture.** OpenVINO has no channels-last depthwise kernel for signals, so every
  inverted bottleneck paid two changes of layout; for pictures it has one. A tenth of the time.
- **The tail as one matrix.** Between the last block and the logits nothing bends: a 1x1 convolution, batch
  normalisation, the mean over time, a linear layer. So the mean comes first, and the three others are multiplied into
  one matrix, in float64. A twentieth of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.sl import DeepECGSL, FusedBlock, MBConvBlock, Norm, SqueezeExcite


class Serving(nn.Module):
    """(B, leads, T) in network units to (B, labels) probabilities; evaluation only."""

    def __init__(self, net: DeepECGSL) -> None:
        super().__init__()
        self.stem = _convolutions(net.initial_conv)
        self.blocks = nn.Sequential(*(_Block(block) for block in net.features))
        self.tail = _tail(net)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.blocks(self.stem(x.unsqueeze(2)))  # (B, C, 1, T / 16)
        return torch.sigmoid(self.tail(x.mean(dim=(2, 3))))


class _Block(nn.Module):
    """A block of either kind: convolutions, gates, convolutions."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        if isinstance(block, FusedBlock):
            self.before = _convolutions(block.fused_conv)
            self.after: nn.Module = nn.Identity()
        elif isinstance(block, MBConvBlock):
            self.before = nn.Sequential(_convolutions(block.expand_conv), _convolutions(block.depthwise_conv))
            self.after = _convolutions(block.project_conv)
        else:
            raise TypeError(f"no serving form of {type(block).__name__}")
        self.gates = _gates(block.se)
        self.residual = block.residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.before(x)
        y = self.after(y * self.gates(y))
        return x + y if self.residual else y


def _gates(se: SqueezeExcite) -> nn.Module:
    pool, *rest = se.se
    if not isinstance(pool, nn.AdaptiveAvgPool1d):
        raise TypeError("squeeze and excitation begins with a mean over time")
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), *(_convolutions(module) for module in rest))


def _convolutions(module: nn.Module) -> nn.Module:
    """The module with each convolution, its batch normalisation multiplied in, over (1, kernel)."""
    if isinstance(module, nn.Sequential):
        parts = list(module)
        if len(parts) > 1 and isinstance(parts[0], nn.Conv1d) and isinstance(parts[1], Norm):
            weight, bias = _folded(parts[0], parts[1].norm)
            return nn.Sequential(_picture(weight, bias, parts[0]), *parts[2:])
        return nn.Sequential(*(_convolutions(part) for part in parts))
    if isinstance(module, nn.Conv1d):
        bias = module.bias if module.bias is not None else torch.zeros(module.out_channels)
        return _picture(module.weight, bias, module)
    return module


def _folded(convolution: nn.Conv1d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (out, in, kernel) and bias (out,) of a convolution and the batch normalisation after it, in float64."""
    if not isinstance(norm, nn.BatchNorm1d) or norm.running_var is None or norm.running_mean is None:
        raise TypeError("a convolution is followed by batch normalisation with running statistics")
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = convolution.bias.double() if convolution.bias is not None else torch.zeros_like(gain)
    return convolution.weight.double() * gain[:, None, None], norm.bias + (bias - norm.running_mean) * gain


def _picture(weight: Tensor, bias: Tensor, like: nn.Conv1d) -> nn.Conv2d:
    """The convolution ``like`` over (B, C, 1, T), with this weight and bias."""
    kernel, stride, padding = like.kernel_size[0], like.stride[0], like.padding[0]
    if isinstance(padding, str):
        raise TypeError("padding is a number in this network")
    out = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        (1, kernel),
        (1, stride),
        (0, padding),
        groups=like.groups,
        dtype=like.weight.dtype,
    )
    with torch.no_grad():
        out.weight.copy_(weight.unsqueeze(2))
        if out.bias is not None:
            out.bias.copy_(bias)
    return out


def _tail(net: DeepECGSL) -> nn.Linear:
    classifier = net.classifier[-1]
    if not isinstance(classifier, nn.Linear):
        raise TypeError("the classifier ends with a linear layer")
    weight, bias = _folded(net.final_conv, net.final_norm.norm)
    matrix = classifier.weight.double()
    out = nn.Linear(net.final_conv.in_channels, classifier.out_features, dtype=classifier.weight.dtype)
    with torch.no_grad():
        out.weight.copy_(matrix @ weight[:, :, 0])
        out.bias.copy_(matrix @ bias + classifier.bias)
    return out
