"""fairseq's settings against the sizes of the tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from training.importers.names import WeightsError
from training.importers.settings import checked, settings_of


def test_rooms_and_flat_arguments_say_the_same(build: SimpleNamespace) -> None:
    model = build.settings(build.ssl(5))
    for found in ({"model": model, "criterion": {"_name": "mse"}}, model | {"criterion": "mse"}):
        settings = settings_of(found)
        assert (settings.heads, settings.criterion, settings.normalised) == (4, "mse", False)
    assert settings_of({"model": model, "task": {"normalize": True}}).normalised
    assert settings_of(model | {"normalize": True}).normalised
    empty = settings_of({})
    assert (empty.heads, empty.criterion) == (None, "")
    odd = settings_of({"model": {"encoder_attention_heads": "12"}, "criterion": {"_name": None}})
    assert (odd.heads, odd.criterion) == (None, "")


def test_what_only_they_know_is_taken(build: SimpleNamespace) -> None:
    net = build.pretraining()
    found = build.settings(net) | {"dropout": 0.1, "dropout_input": 0.2, "dropout_features": 0.3}
    sizes, codebook = checked(settings_of(found), net.config, net.codebook)
    assert (sizes.dropout, sizes.input_dropout, sizes.feature_gradient) == (0.1, 0.2, 0.1)
    assert codebook is not None
    assert codebook.feature_dropout == 0.3
    assert checked(settings_of({}), net.config, net.codebook) == (net.config, net.codebook)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer_norm_first": True}, "layer_norm_first = True"),
        ({"extractor_mode": "layer_norm"}, "extractor_mode = layer_norm"),
        ({"conv_bias": True}, "conv_bias = True"),
        ({"encoder_layers": 12}, "encoder_layers = 12, but the tensors have 2"),
        ({"encoder_embed_dim": 768}, "encoder_embed_dim = 768"),
        ({"encoder_ffn_embed_dim": 3072}, "encoder_ffn_embed_dim"),
        ({"conv_pos": 128}, "conv_pos = 128"),
        ({"conv_pos_groups": 16}, "conv_pos_groups"),
        ({"in_d": 1}, "in_d = 1"),
        ({"latent_vars": 320}, "latent_vars = 320, but the tensors have 8"),
        ({"final_dim": 256}, "final_dim"),
    ],
)
def test_settings_of_another_network_are_refused(build: SimpleNamespace, change: dict[str, Any], says: str) -> None:
    net = build.pretraining()
    with pytest.raises(WeightsError, match=says):
        checked(settings_of(build.settings(net) | change), net.config, net.codebook)


def test_a_final_width_of_zero_means_the_default(build: SimpleNamespace) -> None:
    net = build.pretraining()
    assert checked(settings_of(build.settings(net) | {"final_dim": 0}), net.config, net.codebook)
