"""From a file's keys to the network's own: which family it is, under which prefix it stands, which names it uses.

Wrappers put a prefix before every key (``module.`` by data parallelism, ``model.`` by a training framework,
``_orig_mod.`` by torch.compile, any name by a parent module). It is found, not guessed: one key of each family is known
to end in a way that no other does, and what stands before it is the prefix. A key outside of it is refused rather than
dropped, because a wrapper's own tensors (the means of an input normalisation, say) would be part of the function.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from training.importers.names import WeightsError
from training.models.kinds import NAMES, Family
from training.models.weights import some

SL, SSL = "initial_conv.0.weight", "feature_extractor.conv_layers.0.0.weight"
"""Ends of one key of each family."""
PRETRAINING, HEAD = "quantizer.vars", "proj.weight"
"""Keys that only the pretraining network has, and only the fine-tuning network."""

RENAMED: Mapping[str, str] = {
    r"^classifier\.fc1\.": "classifier.3.",  # the head that the fine-tuning notebooks put on
    # PyTorch 2.1's weight norm, which is a parametrisation; the published files have the older one
    r"\.parametrizations\.weight\.original0$": ".weight_g",
    r"\.parametrizations\.weight\.original1$": ".weight_v",
}
"""Other names for the same tensors."""

TRAINING_ONLY: Mapping[Family, tuple[str, ...]] = {"ssl": ("encoder.mask_emb",), "sl": (), "ssl-pretraining": ()}
"""Tensors that act in training alone: a network fine-tuned with masking carries them along."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file's keys map to the network's."""

    family: Family
    keys: Mapping[str, str]
    """The network's key to the file's."""
    prefix: str
    """Of the network in the file, its last dot included."""
    notes: tuple[str, ...] = ()


def layout_of(keys: Iterable[str], family: Family | None = None) -> Layout:
    """The layout of a state's keys; with ``family``, of none but that.

    Raises WeightsError if they are no network's of ours, another's than ``family``, two's, or more than one network's.
    """
    keys = tuple(keys)
    sl = [key.removesuffix(SL) for key in keys if _ends(key, SL)]
    ssl = [key.removesuffix(SSL) for key in keys if _ends(key, SSL)]
    if len(sl) + len(ssl) != 1:
        if sl or ssl:
            raise WeightsError(
                f"the file holds {len(sl) + len(ssl)} networks (at {some(sl + ssl)}): save the one alone"
            )
        raise WeightsError(f"none of its {len(keys)} tensors ({some(keys)}) is DeepECG-SL's or DeepECG-SSL's")
    found = _sl(keys, sl[0]) if sl else _ssl(keys, ssl[0])
    if family not in (None, found.family):
        raise WeightsError(f"the tensors are those of {NAMES[found.family]}, not of {NAMES[family]}")
    return found


def _ends(key: str, ending: str) -> bool:
    return key == ending or key.endswith("." + ending)


def _sl(keys: tuple[str, ...], prefix: str) -> Layout:
    return _layout("sl", keys, prefix, "")


def _ssl(keys: tuple[str, ...], prefix: str) -> Layout:
    """``prefix`` is the encoder's: the pretraining network is one, the fine-tuning network has one beside its head."""
    if any(key == prefix + PRETRAINING for key in keys):
        return _layout("ssl-pretraining", keys, prefix, "")
    outer = prefix[: prefix[:-1].rfind(".") + 1]
    if prefix and any(key == outer + HEAD for key in keys):
        return _layout("ssl", keys, outer, prefix.removeprefix(outer))
    raise WeightsError(
        f"it is an encoder alone, without a head ({HEAD}) or a quantiser ({PRETRAINING}): "
        "import the fine-tuned file, or the whole pretraining checkpoint"
    )


def _layout(family: Family, keys: tuple[str, ...], prefix: str, encoder: str) -> Layout:
    """``encoder`` is what the file calls the encoder, which the fine-tuning network calls ``encoder.``."""
    if outside := [key for key in keys if not key.startswith(prefix)]:
        raise WeightsError(
            f"beside {NAMES[family]} (under {prefix!r}) the file has {len(outside)} other tensors ({some(outside)}), "
            "which may change what the network sees: save the network's own state dict"
        )
    own = {}
    for key in keys:
        inner = key.removeprefix(prefix)
        if encoder and inner.startswith(encoder):
            inner = "encoder." + inner.removeprefix(encoder)
        for pattern, name in RENAMED.items():
            inner = re.sub(pattern, name, inner)
        own[inner] = key
    if len(own) != len(keys):
        raise WeightsError("two keys of the file mean the same tensor")
    notes = [f"keys were under {prefix!r}"] if prefix else []
    for key in TRAINING_ONLY[family]:
        if own.pop(key, None) is not None:
            notes.append(f"{key} was left out: it acts in training only")
    return Layout(family, own, prefix, tuple(notes))
