"""DeepECG-SSL against tensors that the public reference computed (shared/fixtures/ssl_*)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.models.kinds import Codebook, SSLConfig, released
from training.models.sl import DeepECGSL
from training.models.ssl import (
    DeepECGSSL,
    Pretraining,
    config_from_state,
    encoder_state,
    mean_over_time,
    pretraining_from_state,
    ssl_from_state,
    token_count,
)

State = dict[str, torch.Tensor]
TINY = SSLConfig(5, 12, (16,) * 4, 32, 2, 4, 64, 16, 4)
"""Of the small fixtures, whose four heads have eight features each."""


def about_of(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "about.json").read_text())
    return about


def stages_of(net: DeepECGSSL, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each part of the encoder gives, by the fixtures' names, in the fixtures' layout."""
    encoder, found = net.encoder, {}
    y = x
    for i, layer in enumerate(encoder.feature_extractor.conv_layers):
        found[f"conv{i} (B,C,T)"] = y = layer(y)
    found["feature_layer_norm (B,T,256)"] = y = encoder.layer_norm(y.transpose(1, 2))
    found["post_extract_proj (B,T,D)"] = y = encoder.post_extract_proj(y)
    found["conv_pos (B,T,D)"] = position = encoder.conv_pos(y)
    found["encoder_layer_norm (B,T,D)"] = y = encoder.encoder.layer_norm(y + position)
    for i, part in enumerate(encoder.encoder.layers):
        y = part(y, None)
        found[f"layer{i} (T,B,D)"] = y.transpose(0, 1)
    found["encoder_out (B,T,D)"] = y
    found["pooled (B,D)"] = mean_over_time(y, None)
    return found


@pytest.mark.parametrize("name", ["ssl_tiny", "ssl_tiny_T1250", "ssl_full_formula"])
def test_parity(fixtures_dir: Path, by_formula: Callable[..., State], name: str) -> None:
    folder = fixtures_dir / name
    about = about_of(folder)
    if name == "ssl_full_formula":
        net = ssl_from_state(by_formula(about, lambda _: 1.0))
    else:
        net = ssl_from_state(load_file(fixtures_dir / "ssl_tiny" / "state.safetensors"), heads=4)
    assert sum(p.numel() for p in net.parameters()) == about["parameters"]
    x = torch.from_numpy(np.load(folder / "input.npy"))
    with torch.no_grad():
        logits, stages = net(x).numpy(), stages_of(net, x)
    np.testing.assert_allclose(logits, np.load(folder / "output.npy"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits, np.load(folder / "output_float64_nominal.npy"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(stages["pooled (B,D)"].numpy(), np.load(folder / "pooled.npy"), rtol=0, atol=1e-5)
    assert stages.keys() == about["stages"].keys()
    for stage, out in stages.items():
        expected = about["stages"][stage]
        assert list(out.shape) == expected["shape"], stage
        assert float(out.double().abs().mean()) == pytest.approx(expected["abs_mean"], rel=1e-5), stage
        assert out.flatten()[:5].tolist() == pytest.approx(expected["first5"], rel=0, abs=1e-5), stage
    for path in folder.glob("stage_*.npy"):
        stage = next(key for key in stages if key.startswith(path.stem.removeprefix("stage_") + " "))
        np.testing.assert_allclose(stages[stage].numpy(), np.load(path), rtol=0, atol=1e-5)


def test_published_sizes() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in DeepECGSSL(SSLConfig()).parameters()) == 90_432_461
        assert sum(p.numel() for p in DeepECGSSL(SSLConfig(labels=1)).parameters()) == 90_374_017
        net = Pretraining(SSLConfig(labels=0), Codebook())
        assert sum(p.numel() for p in net.parameters()) == 90_883_072
        assert len(DeepECGSSL(SSLConfig()).state_dict()) == 209
    assert (token_count(2500), token_count(1250)) == (156, 78)


def test_sizes_come_from_the_shapes() -> None:
    for config in (TINY, replace(TINY, head="attentive"), replace(TINY, convolutions=(8, 32), layers=1)):
        with torch.device("meta"):
            state = DeepECGSSL(config).state_dict()
        assert config_from_state(state, heads=4) == config
    net = Pretraining(replace(TINY, labels=0), Codebook(2, 8, 6, 12))
    again = pretraining_from_state(net.state_dict(), heads=4)
    assert (again.config, again.codebook) == (net.config, net.codebook)
    with torch.device("meta"):
        assert config_from_state(DeepECGSSL(SSLConfig()).state_dict()) == SSLConfig()


def fresh(config: SSLConfig = TINY) -> DeepECGSSL:
    net = DeepECGSSL(config)
    net.initialise(torch.Generator().manual_seed(0))
    return net.eval()


def test_what_comes_after_a_window_is_not_heard_but_for_the_norm_over_time() -> None:
    """Padded samples are neither attended to nor pooled: only the tokeniser's norm over time sees them."""
    net = fresh()
    x = torch.randn(2, 12, 1250, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, 1250, dtype=torch.bool)
    padding[1, 800:] = True
    x[1, :, 800:] = 0
    with torch.no_grad():
        padded = net(x, padding)
        assert torch.equal(net(x, padding[:, None].expand(-1, 12, -1)), padded)
        torch.testing.assert_close(padded[0], net(x)[0], atol=1e-6, rtol=0)
        assert (padded[1] - net(x)[1]).abs().max() > 1e-3
        tokens = net.encoder.tokens(x[1:])
        cut = net.encoder.context(tokens[:, :50])  # 800 samples are 50 tokens
        whole, mask = net.encoder(x[1:], padding[1:])
        assert mask is not None
        assert mask.sum() == 78 - 50
    # The last tokens' positions do look 8 tokens ahead, at projected padding; those before them cannot.
    torch.testing.assert_close(padded[1], net.proj(mean_over_time(whole, mask))[0], atol=1e-6, rtol=0)
    assert cut.shape[1] == 50
    with pytest.raises(ValueError, match="at least 16 samples"):
        net(x, torch.ones(2, 1250, dtype=torch.bool))


def test_noise_in_the_padding_changes_no_attention(fixtures_dir: Path) -> None:
    """With the norm over time held fixed, whatever stands in padded tokens leaves the logits as they are."""
    net = fresh()
    tokens = torch.randn(1, 78, 32, generator=torch.Generator().manual_seed(2))
    padded = torch.arange(78)[None] >= 40
    other = tokens.clone()
    other[:, 48:] += 5  # beyond what the positional convolution reaches from token 39
    with torch.no_grad():
        a, b = (mean_over_time(net.encoder.context(t, padded), padded) for t in (tokens, other))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_an_attentive_head_begins_as_the_mean_and_ignores_padding() -> None:
    net = fresh(replace(TINY, head="attentive"))
    assert net.pool is not None
    x = torch.randn(2, 78, 32, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(net.pool(x, None), x.mean(1))
    padded = torch.zeros(2, 78, dtype=torch.bool)
    padded[1, 30:] = True
    torch.nn.init.normal_(net.pool.score.weight, generator=torch.Generator().manual_seed(4))
    changed = x.clone()
    changed[1, 30:] = 99.0
    torch.testing.assert_close(net.pool(x, padded), net.pool(changed, padded))
    assert (net.pool(x, None) - x.mean(1)).abs().max() > 0.1
    assert torch.isfinite(net(torch.randn(2, 12, 320))).all()


def test_it_is_almost_blind_to_gain_and_evaluation_repeats_itself(fixtures_dir: Path) -> None:
    net = ssl_from_state(load_file(fixtures_dir / "ssl_tiny" / "state.safetensors"), heads=4)
    x = torch.from_numpy(np.load(fixtures_dir / "ssl_tiny" / "input.npy"))
    kept = x.clone()
    with torch.no_grad():
        once, again, louder = net(x), net(x), net(3 * x)
    assert torch.equal(once, again), "the reference was left in training mode"
    assert torch.equal(x, kept), "the reference scaled its input in place"
    assert 0 < (louder - once).abs().max() < 0.05
    net.train()
    assert not torch.equal(net(x), net(x)), "activation dropout acts in training"


def test_one_window_s_nan_stays_its_own() -> None:
    net = fresh()
    x = torch.randn(3, 12, 320, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        clean = net(x)
        x[1, 4, 7] = torch.nan
        spoilt = net(x)
    assert spoilt[1].isnan().all()
    torch.testing.assert_close(spoilt[[0, 2]], clean[[0, 2]], atol=1e-6, rtol=0)


def test_a_frozen_tokeniser_has_no_gradient_and_a_scaled_one_a_tenth() -> None:
    x = torch.randn(2, 12, 320, generator=torch.Generator().manual_seed(6))
    gradients = {}
    for factor in (0.0, 0.1, 1.0):
        net = fresh(replace(TINY, feature_gradient=factor, activation_dropout=0.0)).train()
        net(x).square().sum().backward()
        conv: Any = net.encoder.feature_extractor.conv_layers[0]
        gradients[factor] = conv[0].weight.grad
        assert net.encoder.layer_norm.weight.grad is not None
    assert gradients[0.0] is None
    torch.testing.assert_close(gradients[0.1], 0.1 * gradients[1.0])


def test_a_pretrained_encoder_goes_into_the_fine_tuning_network(fixtures_dir: Path) -> None:
    pretrained = load_file(fixtures_dir / "ssl_pretrain_tiny" / "state.safetensors")
    net = fresh()
    net.encoder.load_state_dict(encoder_state(pretrained))
    x = torch.from_numpy(np.load(fixtures_dir / "ssl_pretrain_tiny" / "input.npy"))
    again = pretraining_from_state(pretrained, heads=4)
    with torch.no_grad():
        torch.testing.assert_close(net.encoder(x)[0], again(x)[0])
    assert encoder_state(net.state_dict()).keys() == encoder_state(pretrained).keys()


def test_foreign_states_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="give the state dict of a DeepECG-SSL network"):
        ssl_from_state(DeepECGSL(released()).state_dict())
    state = fresh().state_dict()
    with pytest.raises(ValueError, match=r"quantizer\.vars"):
        pretraining_from_state(state)
    broken: Mapping[str, torch.Tensor] = {k: v for k, v in state.items() if not k.endswith("fc2.bias")}
    with pytest.raises(ValueError, match="do not fit DeepECG-SSL"):
        ssl_from_state(broken, heads=4)
    pretrained = Pretraining(replace(TINY, labels=0), Codebook(2, 8, 6, 12)).state_dict()
    with pytest.raises(ValueError, match="fine-tune it first"):
        ssl_from_state(pretrained, heads=4)


def test_scaled_attention_equals_the_formula() -> None:
    net = fresh()
    layer: Any = net.encoder.encoder.layers[0]
    x = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(7))
    attention = layer.self_attn
    with torch.no_grad():
        q, k, v = (
            p(x).view(2, 20, 4, 8).transpose(1, 2) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1)
        plain = attention.out_proj((weights @ v).transpose(1, 2).reshape(2, 20, 32))
        torch.testing.assert_close(attention(x, None), plain, atol=1e-6, rtol=1e-5)
