"""The networks in the form that is fastest to serve: the same functions, rearranged. Only compiling uses it.

All rearrangements are exact but for rounding (in float64, 1e-11). Of DeepECG-SL:

- **Convolutions over one row of a picture.** OpenVINO has no channels-last depthwise kernel for signals, so every
  inverted bottleneck paid two changes of layout; for pictures it has one. A tenth of the time.
- **The tail as one matrix.** Between the last block and the logits nothing bends: a 1x1 convolution, batch
  normalisation, the mean over time, a linear layer. So the mean comes first, and the three others are multiplied into
  one matrix, in float64. A twentieth of the time.

Of DeepECG-SSL, nine tenths of whose time are matrix products that nothing can save:

- **Query, key and value are one product**, 3 D wide, and attention is one operation that compilers know how to fuse.
- **The weight norm of the positional convolution is multiplied out**, in float64, and groups of fewer than 32 channels
  are joined, with zeros between them: OpenVINO has no bf16 kernel for fewer. A network of 16 a group spent 105 of its
  110 ms there, and spends 2; the published one has 48 and stays as it is.
- **No padding.** The agent's windows are whole, so nothing is masked, and the mean over time is the mean: the published
  sum over the count of what is not exactly zero differs only for features that are exactly zero in some token, which
  the layer norm before it makes of no real window.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.sl import DeepECGSL, FusedBlock, MBConvBlock, Norm, SqueezeExcite
from training.models.ssl import AttentivePool, DeepECGSSL, Encoder

Classifier: TypeAlias = DeepECGSL | DeepECGSSL
Activation = Literal["sigmoid", "none"]
LEAST_CHANNELS = 32
"""Of a group of a convolution."""


def serving_form(net: Classifier, activation: Activation = "sigmoid") -> nn.Module:
    """(B, leads, T) in network units to (B, labels) answers, in evaluation mode.

    ``activation`` is what makes an answer of an output: ``none`` for a regression. Every head has the same form: 77
    labels or one output, linear or attentive.

    Raises:
        TypeError: it is neither network, or one without a head.
    """
    if isinstance(net, DeepECGSL):
        return Serving(net, activation)
    if isinstance(net, DeepECGSSL):
        return ServingSSL(net, activation)
    raise TypeError(f"no serving form of {type(net).__name__}; give a network that has a head")


class Serving(nn.Module):
    """DeepECG-SL: (B, leads, T) in network units to (B, labels) probabilities; evaluation only."""

    def __init__(self, net: DeepECGSL, activation: Activation = "sigmoid") -> None:
        super().__init__()
        self.stem = _convolutions(net.initial_conv)
        self.blocks = nn.Sequential(*(_ServingBlock(block) for block in net.features))
        self.tail = _tail(net)
        self.activation = _activation(activation)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.blocks(self.stem(x.unsqueeze(2)))  # (B, C, 1, T / 16)
        out: Tensor = self.activation(self.tail(x.mean(dim=(2, 3))))
        return out


class _ServingBlock(nn.Module):
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


class ServingSSL(nn.Module):
    """DeepECG-SSL: (B, leads, T) in mV to (B, labels) probabilities; evaluation only."""

    def __init__(self, net: DeepECGSSL, activation: Activation = "sigmoid") -> None:
        super().__init__()
        encoder = net.encoder
        self.tokeniser = encoder.feature_extractor
        self.project = nn.Sequential(encoder.layer_norm, encoder.post_extract_proj)
        self.position = _position(encoder)
        self.drop_last = encoder.conv_pos.drop_last
        self.norm = encoder.encoder.layer_norm
        self.layers = nn.Sequential(*(_Layer(layer) for layer in encoder.encoder.layers))
        self.pool = _Mean() if net.pool is None else _Pool(net.pool)
        self.head = net.proj
        self.activation = _activation(activation)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self.project(self.tokeniser(x).transpose(1, 2))  # (B, N, D)
        near = self.position(y.transpose(1, 2))  # (B, D, N + 1)
        near = F.gelu(near[..., : near.shape[-1] - self.drop_last]).transpose(1, 2)
        y = self.layers(self.norm(y + near))
        out: Tensor = self.activation(self.head(self.pool(y)))
        return out


class _Layer(nn.Module):
    """A transformer layer with one projection for query, key and value."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.self_attn
        self.heads: int = attention.heads
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv = nn.Linear(parts[0].in_features, 3 * parts[0].out_features, dtype=parts[0].weight.dtype)
        with torch.no_grad():
            self.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
            self.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
        self.out = attention.out_proj
        self.after_attention = layer.self_attn_layer_norm
        self.fc1, self.fc2 = layer.fc1, layer.fc2
        self.after_all = layer.final_layer_norm

    def forward(self, x: Tensor) -> Tensor:
        qkv: Any = self.qkv(x)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, d)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.after_attention(x + self.out(y))
        out: Tensor = self.after_all(x + self.fc2(F.gelu(self.fc1(x))))
        return out


class _Mean(nn.Module):
    """(B, N, D) to (B, D)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class _Pool(nn.Module):
    """`AttentivePool` of whole windows, as a product and a sum instead of an einsum."""

    def __init__(self, pool: AttentivePool) -> None:
        super().__init__()
        self.score = pool.score

    def forward(self, x: Tensor) -> Tensor:
        weight = self.score(x).softmax(1).unsqueeze(3)  # (B, N, heads, 1)
        b, n, _ = x.shape
        pooled: Tensor = (weight * x.reshape(b, n, self.score.out_features, -1)).sum(1).flatten(1)
        return pooled


def _position(encoder: Encoder) -> nn.Conv1d:
    like: Any = encoder.conv_pos.pos_conv[0]
    v, g = like.weight_v.double(), like.weight_g.double()
    weight = v * (g / v.norm(dim=(0, 1), keepdim=True))
    groups, bias = like.groups, like.bias
    while weight.shape[1] < LEAST_CHANNELS and groups % 2 == 0:
        weight, groups = _joined(weight, groups), groups // 2
    width, _, kernel = weight.shape
    out = nn.Conv1d(width, width, kernel, padding=like.padding, groups=groups, dtype=bias.dtype)
    out.load_state_dict({"weight": weight.to(bias.dtype), "bias": bias})
    return out


def _joined(weight: Tensor, groups: int) -> Tensor:
    """(width, C, kernel) of so many groups as (width, 2 C, kernel) of half as many: the same function."""
    width, channels, kernel = weight.shape
    out = weight.new_zeros(groups // 2, 2, width // groups, 2, channels, kernel)
    for i in range(2):
        out[:, i, :, i] = weight.view(groups // 2, 2, width // groups, channels, kernel)[:, i]
    return out.view(width, 2 * channels, kernel)


def _activation(name: Activation) -> nn.Module:
    return nn.Sigmoid() if name == "sigmoid" else nn.Identity()
