"""DeepECG-SSL: a convolutional tokeniser and a transformer over twelve leads, for pretraining and for diagnoses.

After the public code of Nolin-Lapalme et al., European Heart Journal 2026, ehaf1119, which follows Oh et al., "Lead-
agnostic self-supervised learning for local and global representations of ECG" (CHIL 2022) and wav2vec 2.0 (Baevski et
al., NeurIPS 2020). Parameter names are those of the published checkpoints, so a published state dict loads as it is,
and every size is read from the tensors' shapes, but for the number of attention heads, which leaves no trace in them:

    net = ssl_from_state(state)                   # DeepECGSSL: (B, 12, T) in mV to (B, labels) logits
    net = pretraining_from_state(state)           # Pretraining: masked prediction and one context per segment
    net.encoder.load_state_dict(encoder_state(pretrained))    # from the one to the other

Shapes in comments: B windows, C features of the tokeniser, D width, T samples, N tokens, M masked tokens, K negatives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.kinds import Codebook, SSLConfig


def token_count(samples: int | Tensor, convolutions: int = 4) -> Any:
    """Tokens of a window: each convolution halves the length and drops an odd last sample (2500 to 156)."""
    for _ in range(convolutions):
        samples = (samples - 2) // 2 + 1
    return samples


class _ScaledGradient(torch.autograd.Function):
    """The identity, with its gradient multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class _Tokeniser(nn.Module):
    """(B, leads, T) to (B, C, N). After the first convolution each feature is normalised over time, so that the gain of
    the signal does not matter and the whole window does."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = config.leads
        for i, out in enumerate(config.convolutions):
            conv = nn.Conv1d(width, out, 2, 2, bias=False)
            norm = nn.GroupNorm(out, out, eps=1e-5) if i == 0 else nn.Identity()
            layers.append(nn.Sequential(conv, nn.Identity(), norm, nn.GELU()))
            width = out
        self.conv_layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.conv_layers:
            x = layer(x)
        return x


class _WeightNormConvolution(nn.Module):
    """Grouped convolution over tokens whose kernel taps each have a learned norm (Salimans and Kingma, 2016)."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups, self.padding = groups, kernel // 2
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        return F.conv1d(x, weight, self.bias, padding=self.padding, groups=self.groups)


class _Position(nn.Module):
    """What a convolution over the neighbouring tokens adds to each: a relative position."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.pos_conv = nn.ModuleList(
            [_WeightNormConvolution(config.width, config.position_kernel, config.position_groups)]
        )
        self.drop_last = 1 - config.position_kernel % 2  # an even kernel gives one token too many

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pos_conv[0](x.transpose(1, 2))  # (B, D, N + 1)
        return F.gelu(y[..., : y.shape[-1] - self.drop_last]).transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        b, n, d = x.shape
        q, k, v = (p(x).view(b, n, self.heads, -1).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        y = F.scaled_dot_product_attention(q, k, v, attend, self.dropout if self.training else 0.0)
        out: Tensor = self.out_proj(y.transpose(1, 2).reshape(b, n, d))
        return out


class _Layer(nn.Module):
    """A transformer layer with its norms after the sums (Vaswani et al., 2017)."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.fc1 = nn.Linear(config.width, config.feed_forward)
        self.fc2 = nn.Linear(config.feed_forward, config.width)
        self.final_layer_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, attend)))
        y = self.fc2(self.activation_dropout(F.gelu(self.fc1(x))))
        out: Tensor = self.final_layer_norm(x + self.dropout(y))
        return out


class _Transformer(nn.Module):
    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, padded: Tensor | None) -> Tensor:
        attend = None
        if padded is not None:
            x = x.masked_fill(padded[..., None], 0.0)
            attend = ~padded[:, None, None, :]  # (B, 1, 1, N): every head and query, the real keys
        x = self.dropout(self.layer_norm(x))
        for layer in self.layers:
            x = layer(x, attend)
        return x


class Encoder(nn.Module):
    """(B, leads, T) in mV to one vector (D) per token, N tokens."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.config = config
        features = config.convolutions[-1]
        self.feature_extractor = _Tokeniser(config)
        self.layer_norm = nn.LayerNorm(features)
        self.post_extract_proj = nn.Linear(features, config.width) if features != config.width else nn.Identity()
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.conv_pos = _Position(config)
        self.encoder = _Transformer(config)

    def features(self, x: Tensor) -> Tensor:
        """The tokeniser's output (B, C, N), before any norm over features."""
        if self.config.feature_gradient == 0:
            with torch.no_grad():
                return self.feature_extractor(x)  # type: ignore[no-any-return]
        y: Tensor = self.feature_extractor(x)
        if self.training and self.config.feature_gradient != 1:
            y = _ScaledGradient.apply(y, self.config.feature_gradient)  # type: ignore[no-untyped-call]
        return y

    def context(self, tokens: Tensor, padded: Tensor | None = None) -> Tensor:
        """(B, N, D) projected tokens to (B, N, D) in their context."""
        out: Tensor = self.encoder(tokens + self.conv_pos(tokens), padded)
        return out

    def tokens(self, x: Tensor) -> Tensor:
        """(B, N, D): normed, projected tokens of windows."""
        out: Tensor = self.input_dropout(self.post_extract_proj(self.layer_norm(self.features(x).transpose(1, 2))))
        return out

    def padded_tokens(self, padding: Tensor | None, tokens: int) -> Tensor | None:
        """(B, N) True where a token is padding. ``padding`` (B, T) or (B, leads, T) marks the samples after the end.

        Raises:
            ValueError: a window has no whole token.
        """
        if padding is None or not bool(padding.any()):
            return None
        samples = padding.shape[-1] - padding.reshape(len(padding), -1, padding.shape[-1])[:, 0].sum(-1)
        count = token_count(samples, len(self.config.convolutions))
        if bool((count < 1).any()):
            least = 2 ** len(self.config.convolutions)
            raise ValueError(f"a window is padded to less than one token; give at least {least} samples")
        padded: Tensor = torch.arange(tokens, device=padding.device)[None] >= count[:, None]
        return padded

    def forward(self, x: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Context (B, N, D) and the padded tokens (B, N), None where nothing is padded."""
        tokens = self.tokens(x)
        padded = self.padded_tokens(padding, tokens.shape[1])
        return self.context(tokens, padded), padded

    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights as the reference draws them."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, generator=generator)
            elif isinstance(module, _WeightNormConvolution):
                deviation = math.sqrt(4 / (module.weight_v.shape[2] * module.weight_v.shape[0]))
                nn.init.normal_(module.weight_v, 0.0, deviation, generator=generator)
                with torch.no_grad():
                    module.weight_g.copy_(module.weight_v.norm(dim=(0, 1), keepdim=True))
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
                nn.init.zeros_(module.bias)


def mean_over_time(x: Tensor, padded: Tensor | None) -> Tensor:
    """(B, N, D) to (B, D) as the reference pools: the sum over the count of what is not exactly zero.

    It is the mean but for features that are exactly zero in some token, and 0 (there: NaN) for those zero in all.
    """
    if padded is not None:
        x = x.masked_fill(padded[..., None], 0.0)
    return x.sum(1) / (x != 0).sum(1).clamp_min(1)


class AttentivePool(nn.Module):
    """Each head of D / heads features has its own weights over time: a softmax over one learned score per token.

    Multi-head attention pooling with a learned query (Lee et al., Set Transformer, 2019), its scores starting at zero,
    so that a fresh head is the mean.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, heads)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: Tensor, padded: Tensor | None) -> Tensor:  # noqa: D102
        b, n, _ = x.shape
        score: Tensor = self.score(x)  # (B, N, heads)
        if padded is not None:
            score = score.masked_fill(padded[..., None], float("-inf"))
        weight = score.softmax(1)
        return torch.einsum("bnh,bnhd->bhd", weight, x.view(b, n, weight.shape[-1], -1)).reshape(b, -1)


class DeepECGSSL(nn.Module):
    """The fine-tuning network: (B, 12, T) in mV to (B, labels) logits. The sigmoid is the caller's."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.pool = AttentivePool(config.width, config.heads) if config.head == "attentive" else None
        self.proj = nn.Linear(config.width, config.labels)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """``padding`` (B, T) or (B, 12, T), True = padded; padded samples are zeros."""
        y, padded = self.encoder(x, padding)
        pooled = mean_over_time(y, padded) if self.pool is None else self.pool(y, padded)
        logits: Tensor = self.proj(pooled)
        return logits

    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights; those of a pretrained encoder are loaded over them."""
        self.encoder.initialise(generator)
        nn.init.xavier_uniform_(self.proj.weight, generator=generator)
        nn.init.zeros_(self.proj.bias)


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """What the quantiser makes of R tokens."""

    vectors: Tensor
    """(R, groups * width): the chosen codes."""
    chosen: Tensor
    """(R, groups) int64: which they are."""
    probabilities: Tensor
    """(groups, codes): mean over the tokens of the softmax, whose perplexity the loss wants high."""
    used: Tensor
    """(groups, codes): share of the tokens that chose each code."""


class Quantiser(nn.Module):
    """Product quantisation by the straight-through Gumbel softmax (wav2vec 2.0, section 2)."""

    def __init__(self, features: int, codebook: Codebook) -> None:
        super().__init__()
        self.groups, self.codes = codebook.groups, codebook.codes
        self.vars = nn.Parameter(torch.empty(1, codebook.groups * codebook.codes, codebook.width))
        self.weight_proj = nn.Linear(features, codebook.groups * codebook.codes)

    def forward(self, x: Tensor, temperature: float) -> Codes:
        """Tokens (R, C) to codes: the likeliest, or in training one drawn with Gumbel noise."""
        logits = self.weight_proj(x).float().view(len(x), self.groups, self.codes)
        hard = F.one_hot(logits.argmax(-1), self.codes).to(logits.dtype)
        choice = F.gumbel_softmax(logits, temperature, hard=True) if self.training else hard
        table = self.vars.view(self.groups, self.codes, -1)
        vectors = torch.einsum("rgv,gvd->rgd", choice.to(table.dtype), table).flatten(1)
        return Codes(vectors, choice.argmax(-1), logits.softmax(-1).mean(0), hard.mean(0))


@dataclass(frozen=True, slots=True, eq=False)
class Pretrained:
    """One pass of pretraining over B segments of M masked tokens each: all that the objective needs."""

    logits: Tensor
    """(1 + K, B, M): cosine similarity over .1 of the context to the true target (first) and to the negatives."""
    features: Tensor
    """(): mean square of the tokeniser's output."""
    codes: Codes
    context: Tensor
    """(B, N, D): of masked and unmasked tokens alike; its mean over time is what CMSC compares."""


class Pretraining(Encoder):
    """The pretraining network: masked tokens are told by their context from other tokens of the same segment."""

    TEMPERATURE = 0.1
    """Of the similarities (wav2vec 2.0's κ)."""

    def __init__(self, config: SSLConfig, codebook: Codebook) -> None:
        super().__init__(config)
        self.codebook = codebook
        self.mask_emb = nn.Parameter(torch.empty(config.width))
        self.feature_dropout = nn.Dropout(codebook.feature_dropout)
        self.quantizer = Quantiser(config.convolutions[-1], codebook)
        self.project_q = nn.Linear(codebook.groups * codebook.width, codebook.final)
        self.final_proj = nn.Linear(config.width, codebook.final)

    def pretrain(self, x: Tensor, masked: Tensor, negatives: Tensor, temperature: float) -> Pretrained:
        """One pass.

        Args:
            x: (B, 12, T) segments in mV, masked leads being zeros.
            masked: (B, N) bool, the same number M in every row.
            negatives: (B, M, K) int64: which of the row's masked tokens, 0 … M - 1, stand against each.
            temperature: Of the Gumbel softmax.
        """
        b, m = len(x), negatives.shape[1]
        features = self.features(x)  # (B, C, N)
        penalty = features.float().square().mean()
        normed = self.layer_norm(features.transpose(1, 2))  # (B, N, C)
        tokens = self.input_dropout(self.post_extract_proj(normed))  # (B, N, D)
        context = self.context(torch.where(masked[..., None], self.mask_emb.to(tokens.dtype), tokens))  # (B, N, D)
        codes = self.quantizer(self.feature_dropout(normed)[masked], temperature)
        target: Tensor = self.project_q(codes.vectors).view(b, m, -1)  # (B, M, F)
        query: Tensor = self.final_proj(context[masked]).view(b, m, -1)
        chosen = codes.chosen.view(b, m, -1)
        logits = self._similarity(query, target, chosen, negatives)
        return Pretrained(logits, penalty, codes, context)

    def _similarity(self, query: Tensor, target: Tensor, chosen: Tensor, negatives: Tensor) -> Tensor:
        """(1 + K, B, M). All pairs of a segment are compared once, and the wanted ones picked out of them."""
        with torch.autocast(query.device.type, enabled=False):  # cosines a thousandth apart must stay apart
            q, t = F.normalize(query.float(), dim=-1, eps=1e-8), F.normalize(target.float(), dim=-1, eps=1e-8)
            pairs = torch.einsum("bmf,bnf->bmn", q, t) / self.TEMPERATURE  # (B, M, M)
        truth = pairs.diagonal(dim1=1, dim2=2)  # (B, M)
        others = pairs.gather(2, negatives)  # (B, M, K)
        # A negative that has the target's own codes is none.
        same = (chosen[:, :, None] == chosen[:, None]).all(-1).gather(2, negatives)
        others = others.masked_fill(same, float("-inf"))
        return torch.cat([truth[..., None], others], dim=-1).permute(2, 0, 1)

    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights as the reference draws them."""
        super().initialise(generator)
        nn.init.uniform_(self.mask_emb, generator=generator)
        nn.init.uniform_(self.quantizer.vars, generator=generator)
        nn.init.normal_(self.quantizer.weight_proj.weight, generator=generator)
        for layer in (self.project_q, self.final_proj):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            nn.init.zeros_(layer.bias)


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors, by its own names, from a state of either network."""
    if any(key.startswith("encoder.encoder.") for key in state):
        return {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    own = ("mask_emb", "quantizer.", "project_q.", "final_proj.")
    return {key: value for key, value in state.items() if not key.startswith(own)}


def config_from_state(state: Mapping[str, Tensor], heads: int | None = None) -> SSLConfig:
    """Every size from the tensors' shapes; ``heads`` of attention, by default one for 64 features, as published.

    Raises ValueError if the state is not of this family.
    """
    encoder = encoder_state(state)
    try:
        widths: list[int] = []
        while (conv := encoder.get(f"feature_extractor.conv_layers.{len(widths)}.0.weight")) is not None:
            widths.append(conv.shape[0])
        width = encoder["encoder.layer_norm.weight"].shape[0]
        kernel = encoder["conv_pos.pos_conv.0.weight_v"]
        layers = len({key.split(".")[2] for key in encoder if key.startswith("encoder.layers.")})
        return SSLConfig(
            labels=state["proj.weight"].shape[0] if "proj.weight" in state else 0,
            leads=encoder["feature_extractor.conv_layers.0.0.weight"].shape[1],
            convolutions=tuple(widths),
            width=width,
            layers=layers,
            heads=heads or max(1, width // 64),
            feed_forward=encoder["encoder.layers.0.fc1.weight"].shape[0] if layers else 4 * width,
            position_kernel=kernel.shape[2],
            position_groups=width // kernel.shape[1],
            head="attentive" if "pool.score.weight" in state else "linear",
        )
    except KeyError as e:
        raise ValueError(
            f"no tensor {e.args[0]!r} in the state; give the state dict of a DeepECG-SSL network "
            "(not of DeepECG-SL, an optimiser or a whole checkpoint)"
        ) from None


def _load(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        net.load_state_dict(dict(state))
    except RuntimeError as e:
        raise ValueError(f"the tensors do not fit DeepECG-SSL: {str(e).splitlines()[-1].strip()}") from None


def ssl_from_state(state: Mapping[str, Tensor], heads: int | None = None) -> DeepECGSSL:
    """The fine-tuning network that a state dict describes, with its weights, in evaluation mode.

    Raises ValueError if the state is not one of DeepECG-SSL, or of its pretraining network.
    """
    config = config_from_state(state, heads)
    if config.labels == 0:
        raise ValueError("the state has no head (proj.weight): it is a pretrained encoder; fine-tune it first")
    net = DeepECGSSL(config)
    _load(net, state)
    return net.eval()


def codebook_from_state(state: Mapping[str, Tensor]) -> Codebook:
    """The quantiser's sizes from the tensors' shapes.

    Raises ValueError if the state is not one of the pretraining network.
    """
    if "quantizer.vars" not in state or "project_q.weight" not in state:
        raise ValueError("the state has no quantizer.vars: it is not one of the pretraining network")
    _, codes, width = state["quantizer.vars"].shape
    groups = state["project_q.weight"].shape[1] // width
    return Codebook(groups, codes // groups, width, state["project_q.weight"].shape[0])


def pretraining_from_state(state: Mapping[str, Tensor], heads: int | None = None) -> Pretraining:
    """The pretraining network that a state dict describes, with its weights, in evaluation mode.

    Raises ValueError if the state is not one of it.
    """
    config, codebook = config_from_state(state, heads), codebook_from_state(state)
    net = Pretraining(config, codebook)
    _load(net, state)
    return net.eval()
