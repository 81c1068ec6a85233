"""The report classifier: BERT with 77 sigmoids, published or trained here.

    reader = ReportClassifier.load(folder)        # a folder of `deepecg-train labels import` or `labels train`
    reader.probabilities(texts)                   # (n, 77) in the order of LABELS
    reader.labels(texts)                          # (n, 77) int8 at its thresholds

The published one (``Bert_diagnosis2classification``, Devlin et al., NAACL 2019, fine-tuned) reads up to 512 tokens. A
folder holds tensors and JSON alone: transformers' own loading, which may run a folder's code, is not used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agent.core.labels import LABEL_NAMES
from agent.core.preprocessing import Preprocessing
from training.models.published import labels_at

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import BertForSequenceClassification

Matrix = NDArray[np.float64]

MAX_TOKENS = 512
TOKENISER = "tokenizer.json"
VOCABULARY = "vocab.txt"
TOKENISER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, slots=True, eq=False)
class ReportClassifier:
    """A network with its tokeniser and thresholds."""

    net: BertForSequenceClassification
    """In evaluation mode."""
    tokeniser: Tokenizer
    thresholds: Matrix
    """(77,); NaN where a label was not learnt."""

    @classmethod
    def load(cls, folder: Path) -> ReportClassifier:
        """The classifier of a folder that `labels import` or `labels train` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: it is not a folder of ours, or its files do not belong together.
        """
        from training.models.weights import EMBEDDED, read_config

        config = read_config(folder) if _is_ours(folder, EMBEDDED) else None
        if config is None or config.family != "bert" or config.order != "sl":
            raise ValueError(
                f"{folder} holds no report classifier; make one with: deepecg-train labels import {folder} TARGET"
            )
        described = json.loads((folder / "config.json").read_text("utf-8"))
        net = network(described, tensors_of(folder))
        thresholds = np.array([np.nan if t is None else t for t in config.thresholds or (None,) * len(LABEL_NAMES)])
        return cls(net, tokeniser_of(folder), thresholds)

    def probabilities(self, texts: Sequence[str], *, batch: int = 64, progress: bool = False) -> Matrix:
        """(n, 77) for reports; reports of like length go together, so the order of work is not that of the texts."""
        import torch
        from tqdm import tqdm

        encoded = [e.ids[: self.most_tokens] for e in self.tokeniser.encode_batch([text or " " for text in texts])]
        order = np.argsort([len(ids) for ids in encoded], kind="stable")
        out = np.empty((len(texts), len(LABEL_NAMES)))
        steps = range(0, len(order), batch)
        for first in tqdm(steps, desc="reports", unit="batch", disable=not progress, mininterval=5):
            rows = order[first : first + batch]
            ids, mask = padded([encoded[row] for row in rows])
            with torch.inference_mode():
                out[rows] = torch.sigmoid(self.net(input_ids=ids, attention_mask=mask).logits).numpy()
        return out

    def labels(self, texts: Sequence[str], *, batch: int = 64, progress: bool = False) -> NDArray[np.int8]:
        """(n, 77): 1 from the threshold on, 0 below it, -1 where a label was not learnt."""
        return labels_at(self.probabilities(texts, batch=batch, progress=progress), self.thresholds)

    @property
    def most_tokens(self) -> int:
        """Tokens that it reads of a report; what comes later is not seen."""
        return min(MAX_TOKENS, int(self.net.config.max_position_embeddings))

    def save(self, folder: Path, *, origin: str, notes: tuple[str, ...] = ()) -> None:
        """Write a folder that `load` reads, and transformers too. The same classifier gives the same bytes."""
        from training.models.kinds import DIAGNOSES
        from training.models.weights import CONFIG, EMBEDDED, ModelConfig, Provenance, write_folder

        about = ModelConfig(
            family="bert",
            task=DIAGNOSES,
            labels=LABEL_NAMES,
            order="sl",
            thresholds=tuple(None if np.isnan(t) else float(t) for t in self.thresholds),
            preprocessing=Preprocessing(),
            sizes=None,
            provenance=Provenance(origin=origin, notes=notes),
        )
        described = self.net.config.to_dict()
        for volatile in ("transformers_version", "_name_or_path", "dtype"):
            described.pop(volatile, None)
        described |= {
            "architectures": ["BertForSequenceClassification"],
            "problem_type": "multi_label_classification",
            "id2label": dict(enumerate(LABEL_NAMES)),
            "label2id": {name: i for i, name in enumerate(LABEL_NAMES)},
            EMBEDDED: about.model_dump(mode="json"),
        }
        plain = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": self.most_tokens, **SPECIAL_NAMES}
        tensors = {key: value.detach().contiguous() for key, value in sorted(self.net.state_dict().items())}
        texts = {
            CONFIG: _json(described),
            TOKENISER: self.tokeniser.to_str(pretty=True) + "\n",
            TOKENISER_CONFIG: _json(plain),
        }
        write_folder(folder, tensors, texts)


SPECIAL_NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _is_ours(folder: Path, key: str) -> bool:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; name the folder of a report classifier")
    try:
        read = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); write the folder again") from None
    return isinstance(read, dict) and key in read


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of a transformers folder, from safetensors, or from a pickle that may hold nothing but tensors.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the file is damaged, or would run something.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    try:
        if safe.is_file():
            return dict(load_file(str(safe)))
        if pickled.is_file():
            return dict(torch.load(pickled, map_location="cpu", weights_only=True))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        what = str(error).splitlines()[0]
        raise ValueError(f"the weights in {folder} cannot be read ({what}); download them again") from None
    raise FileNotFoundError(f"no {safe.name} or {pickled.name} in {folder}; name a transformers folder")


def network(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BertForSequenceClassification:
    """BERT of a described size with these weights, in evaluation mode.

    Raises:
        ValueError: the description is of another network, or the tensors do not fit it.
    """
    from transformers import BertConfig, BertForSequenceClassification

    if described.get("model_type") != "bert":
        raise ValueError(f"the model is a {described.get('model_type')!r}, not 'bert'; only BERT folders can be read")
    plain = {key: value for key, value in described.items() if key not in ("auto_map", "deepecg")}
    names = {int(key): value for key, value in plain.get("id2label", {}).items()}
    net: BertForSequenceClassification = BertForSequenceClassification(
        BertConfig.from_dict({**plain, "id2label": names})
    )
    try:
        net.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the described BERT: {' '.join(str(error).split())[:300]}") from None
    net.train(mode=False)
    return net


def tokeniser_of(folder: Path) -> Tokenizer:
    """The tokeniser of a transformers folder: ``tokenizer.json``, or a WordPiece ``vocab.txt``.

    Raises:
        FileNotFoundError: there is neither.
    """
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    if (folder / TOKENISER).is_file():
        tokeniser = Tokenizer.from_file(str(folder / TOKENISER))
    elif (folder / VOCABULARY).is_file():
        about = folder / TOKENISER_CONFIG
        lower = json.loads(about.read_text("utf-8")).get("do_lower_case", True) if about.is_file() else True
        tokeniser = Tokenizer.from_str(BertWordPieceTokenizer(str(folder / VOCABULARY), lowercase=bool(lower)).to_str())
    else:
        raise FileNotFoundError(f"no {TOKENISER} or {VOCABULARY} in {folder}; download the whole folder")
    tokeniser.no_padding()
    tokeniser.enable_truncation(MAX_TOKENS)
    return tokeniser


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) with zeros behind, and the mask (B, T) of what is a token."""
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask
