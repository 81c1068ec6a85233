"""fairseq's settings (``cfg`` or ``args``), held against what the tensors' shapes say, and what only they know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from training.importers.names import WeightsError, short
from training.models.kinds import Codebook, SSLConfig

FIXED: Mapping[str, Any] = {
    "layer_norm_first": False,
    "extractor_mode": "default",
    "conv_bias": False,
    "quantize_input": False,
    "same_quantizer": False,
    "target_glu": False,
}
"""What DeepECG-SSL has no other form of."""
SIZES: Mapping[str, str] = {
    "in_d": "leads",
    "encoder_layers": "layers",
    "encoder_embed_dim": "width",
    "encoder_ffn_embed_dim": "feed_forward",
    "conv_pos": "position_kernel",
    "conv_pos_groups": "position_groups",
    "num_labels": "labels",
}
CODEBOOK: Mapping[str, str] = {"latent_groups": "groups", "latent_vars": "codes", "final_dim": "final"}
TRAINING: Mapping[str, str] = {
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "input_dropout",
    "feature_grad_mult": "feature_gradient",
}
"""What acts in training only."""


@dataclass(frozen=True, slots=True)
class FairseqSettings:
    """What is used of them."""

    model: Mapping[str, Any]
    criterion: str = ""
    """Name of the loss, as ``binary_cross_entropy_with_logits``."""
    normalised: bool = False
    """Whether each recording was brought to mean 0 and deviation 1 before the network saw it."""

    @property
    def heads(self) -> int | None:
        """Of attention; None where it is not said."""
        return _number(self.model.get("encoder_attention_heads"))


def settings_of(found: Mapping[str, Any]) -> FairseqSettings:
    """From a ``cfg`` by rooms (model, task, criterion), or from flat ``args``."""
    rooms: dict[str, Any] = {room: found[room] for room in ("model", "task", "criterion") if _is_room(found, room)}
    model = rooms.get("model", found)
    criterion = rooms["criterion"].get("_name") if "criterion" in rooms else found.get("criterion")
    normalised = any(place.get("normalize") is True for place in (model, rooms.get("task", {})))
    return FairseqSettings(model, criterion if isinstance(criterion, str) else "", normalised)


def _is_room(found: Mapping[str, Any], name: str) -> bool:
    return isinstance(found.get(name), dict)


def _number(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def checked(
    settings: FairseqSettings, sizes: SSLConfig, codebook: Codebook | None
) -> tuple[SSLConfig, Codebook | None]:
    """The sizes, with what the settings add to them.

    Raises WeightsError if the settings are those of another network than the tensors.
    """
    for name, wanted in FIXED.items():
        if settings.model.get(name, wanted) != wanted:
            value = short(settings.model[name])
            raise WeightsError(f"its settings say {name} = {value}, which is another network than DeepECG-SSL")
    for names, ours in ((SIZES, sizes), (CODEBOOK, codebook)):
        for name, own in names.items():
            said = _number(settings.model.get(name))
            have = getattr(ours, own, None)
            if said is not None and have and said != have:
                raise WeightsError(
                    f"its settings say {name} = {said}, but the tensors have {have}: the file is damaged"
                )
    shares: dict[str, Any] = {}
    for name, own in TRAINING.items():
        share = settings.model.get(name)
        if isinstance(share, (int, float)) and 0 <= share <= 1:
            shares[own] = float(share)
    features = settings.model.get("dropout_features")
    if codebook is not None and isinstance(features, (int, float)) and 0 <= features < 1:
        codebook = replace(codebook, feature_dropout=float(features))
    return replace(sizes, **shares), codebook
