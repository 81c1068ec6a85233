"""Training of the report classifier: from nothing, or from a local BERT folder, on reports whose labels are known.

Labels that are unknown are masked out of the loss. The same seed, data and machine give the same weights, also where a
run was cut off and goes on from its last whole epoch. Thresholds are chosen on the validation reports alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agent.core.labels import LABEL_NAMES
from training.labels.classifier import MAX_TOKENS, SPECIAL_NAMES, ReportClassifier, padded, tensors_of, tokeniser_of

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertForSequenceClassification

Matrix = NDArray[np.int8]

SHORTEST = 3
"""Letters of a beginning or an ending that may be a piece of its own."""
LEAST_SAVED = 10
"""Letters that a piece must spare in the whole of the reports."""
LEAST_POSITIVE = 5
"""Positive reports that a label needs among those it is learnt from; with fewer it stays unknown."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes and pace. The defaults suit some ten thousand short reports on a processor."""

    layers: int = 2
    width: int = 256
    heads: int = 4
    vocabulary: int = 6000
    """Word pieces at most."""
    batch: int = 16
    learning_rate: float = 6e-4
    """From nothing; a pretrained BERT wants about 3e-5 (Devlin et al.)."""
    warmup: float = 0.05
    """Part of the steps over which the rate rises; then it falls linearly."""
    weight_decay: float = 0.01
    dropout: float = 0.1
    epochs: int = 20
    patience: int = 4
    """Epochs without a better validation figure before it stops."""
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Reports with labels."""

    texts: tuple[str, ...]
    labels: Matrix
    """(n, 77), -1 = unknown."""
    patients: tuple[str, ...]


def train_tokeniser(texts: Sequence[str], size: int) -> Tokenizer:
    """A WordPiece tokeniser in BERT's form for these reports: lower case, umlauts kept.

    The vocabulary is every letter, then the commonest words, beginnings and endings. The library's own trainer breaks
    ties by the order of a hash table, another one in every process, so that no run could be repeated or resumed.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    normaliser = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    words = pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in words.pre_tokenize_str(normaliser.normalize_str(text)))
    special = [SPECIAL_NAMES[key] for key in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")]
    vocabulary = special + pieces(counts, size - len(special))
    tokeniser = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))  # noqa: S106  (no password)
    tokeniser.add_special_tokens(special)
    tokeniser.normalizer = normaliser
    tokeniser.pre_tokenizer = words
    tokeniser.decoder = decoders.WordPiece()
    ends = [(name, tokeniser.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokeniser.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokeniser.enable_truncation(MAX_TOKENS)
    return tokeniser


def pieces(counts: Mapping[str, int], size: int) -> list[str]:
    """At most ``size`` word pieces: every letter, then what spares most letters, in order."""
    letters = {letter for word in counts for letter in word}
    found: Counter[str] = Counter()
    for word, count in counts.items():
        found[word] += count * len(word)
        for cut in range(SHORTEST, len(word) - SHORTEST + 1):
            found[word[:cut]] += cut
            found[f"##{word[cut:]}"] += len(word) - cut
    alphabet = sorted(letters) + [f"##{letter}" for letter in sorted(letters)]
    # A piece of a single rare word is worth less than the letters it would spare.
    worth = [piece for piece, saved in found.items() if saved >= LEAST_SAVED and piece not in letters]
    return alphabet + sorted(worth, key=lambda piece: (-found[piece], piece))[: max(0, size - len(alphabet))]


def new_network(recipe: Recipe, vocabulary: int, labels: Matrix) -> BertForSequenceClassification:
    """BERT of the recipe's sizes with random weights, its answers at first the labels' prevalence.

    BERT's own initial deviation, .02, suits a width of 768. In a narrow network it leaves the first token, of which the
    answer is made, without news of the others for thousands of steps; the width to the power of -1/2 does not.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    net = BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            intermediate_size=4 * recipe.width,
            max_position_embeddings=MAX_TOKENS,
            hidden_dropout_prob=recipe.dropout,
            attention_probs_dropout_prob=recipe.dropout,
            initializer_range=recipe.width**-0.5,
            id2label=dict(enumerate(LABEL_NAMES)),
        )
    )
    there, absent = (labels == 1).sum(axis=0) + 1, (labels == 0).sum(axis=0) + 1
    with torch.no_grad():
        net.classifier.bias.copy_(torch.from_numpy(np.log(there / absent)))
    return net


def started_from(folder: Path) -> tuple[BertForSequenceClassification, Tokenizer]:
    """The network and tokeniser of a local BERT folder (safetensors, or a pickle of tensors alone), any head.

    A head of 77 outputs is kept, any other is replaced by a new one.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is no BERT, or its weights do not fit its config.
    """
    from transformers import BertConfig, BertForSequenceClassification

    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; name a transformers folder of BERT")
    described: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if described.get("model_type") != "bert":
        raise ValueError(f"{folder} holds a {described.get('model_type')!r}, not a 'bert'; name a folder of BERT")
    drop = ("auto_map", "deepecg", "label2id", "num_labels")
    config = BertConfig.from_dict(
        {k: v for k, v in described.items() if k not in drop} | {"id2label": dict(enumerate(LABEL_NAMES))}
    )
    net = BertForSequenceClassification(config)
    own = net.state_dict()
    found = {}
    for key, tensor in tensors_of(folder).items():
        name = key if key.startswith(("bert.", "classifier.")) else f"bert.{key}"
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            name = name.removesuffix(old) + new if name.endswith(old) else name
        if name in own and own[name].shape == tensor.shape:
            found[name] = tensor.float()
    missing = [key for key in own if key not in found and not key.startswith(("classifier.", "bert.pooler."))]
    if missing:
        raise ValueError(
            f"the weights in {folder} lack {len(missing)} of BERT's tensors ({missing[0]}, …); download again"
        )
    net.load_state_dict(own | found)
    return net, tokeniser_of(folder)


def _batches(ids: Sequence[Sequence[int]], batch: int, generator: torch.Generator) -> Iterator[NDArray[np.int64]]:
    """Rows of an epoch in random order, reports of like length together (in pools of fifty batches)."""
    import torch

    order = torch.randperm(len(ids), generator=generator).numpy()
    groups = []
    for first in range(0, len(order), 50 * batch):
        pool = sorted(order[first : first + 50 * batch].tolist(), key=lambda row: len(ids[row]))
        groups += [np.array(pool[i : i + batch]) for i in range(0, len(pool), batch)]
    for k in torch.randperm(len(groups), generator=generator).tolist():
        yield groups[k]


def learnable(labels: Matrix) -> NDArray[np.bool_]:
    """(77,): labels with enough positive and some negative reports."""
    enough: NDArray[np.bool_] = ((labels == 1).sum(axis=0) >= LEAST_POSITIVE) & (labels == 0).any(axis=0)
    return enough


def average_precision(labels: Matrix, probabilities: NDArray[np.float64]) -> float:
    """Mean over labels of the average precision; labels without positive and negative reports are left out."""
    from sklearn.metrics import average_precision_score

    figures = []
    for i in range(labels.shape[1]):
        known = labels[:, i] >= 0
        truth = labels[known, i]
        if truth.any() and not truth.all():
            figures.append(average_precision_score(truth, probabilities[known, i]))
    return float(np.mean(figures)) if figures else 0.0


def best_thresholds(labels: Matrix, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """(77,) thresholds of the best F1; .5 where no report is positive or none is negative."""
    out = np.full(labels.shape[1], 0.5)
    for i in range(labels.shape[1]):
        known = labels[:, i] >= 0
        truth, p = labels[known, i], probabilities[known, i]
        if not truth.any() or truth.all():
            continue
        order = np.argsort(-p, kind="stable")
        hits = np.cumsum(truth[order])
        f1 = 2 * hits / (np.arange(1, len(p) + 1) + truth.sum())
        last_of_equal = np.append(np.diff(p[order]) != 0, True)  # a threshold cannot divide equal probabilities
        best = int(np.argmax(np.where(last_of_equal, f1, -1)))
        below = p[order][best + 1] if best + 1 < len(p) else 0.0
        out[i] = (p[order][best] + below) / 2
    return out


def train(
    recipe: Recipe,
    examples: Examples,
    validation: Examples,
    checkpoint: Path,
    *,
    start: Path | None = None,
    progress: bool = True,
) -> ReportClassifier:
    """Train until the validation figure (mean average precision) no longer rises; the best epoch's weights.

    Args:
        recipe: Sizes, pace and seed.
        examples: To learn from.
        validation: Of other patients: for stopping and thresholds.
        checkpoint: Written after every epoch; where it is there, the run goes on from it.
        start: A local BERT folder to fine-tune; None = from nothing.
        progress: A bar to stderr.

    Raises:
        ValueError: patients are on both sides, nothing can be learnt, or the checkpoint is of another run.
    """
    import torch
    from tqdm import tqdm

    if shared := set(examples.patients) & set(validation.patients):
        raise ValueError(f"{len(shared)} patients are both learnt from and validated on; split the reports by patient")
    learnt = learnable(examples.labels)
    if not learnt.any() or not validation.texts:
        raise ValueError(f"no label has {LEAST_POSITIVE} positive reports, or none is left for validation; give more")
    torch.manual_seed(recipe.seed)
    if start is None:
        tokeniser = train_tokeniser(examples.texts, recipe.vocabulary)
        net = new_network(recipe, tokeniser.get_vocab_size(), examples.labels)
    else:
        net, tokeniser = started_from(start)
    run = _Run(recipe, net, len(examples.texts), _identity(recipe, examples, validation, tokeniser, start))
    if checkpoint.exists():
        run.resume(checkpoint)
    ids = [e.ids for e in tokeniser.encode_batch(list(examples.texts))]
    target = torch.from_numpy(np.where(learnt, examples.labels, -1).astype(np.float32))
    reader = ReportClassifier(net, tokeniser, np.full(len(LABEL_NAMES), np.nan))
    while run.epoch < recipe.epochs and run.since < recipe.patience:
        run.train_epoch(ids, target, progress=progress)
        found = reader.probabilities(validation.texts)[:, learnt]
        run.judge(average_precision(validation.labels[:, learnt], found))
        if progress:
            tqdm.write(f"epoch {run.epoch}: mean average precision {run.figure:.4f}, best {run.best:.4f}")
        run.write(checkpoint)
    net.load_state_dict(run.best_state)
    net.train(mode=False)
    thresholds = best_thresholds(validation.labels, reader.probabilities(validation.texts))
    return ReportClassifier(net, tokeniser, np.where(learnt, thresholds, np.nan))


class _Run:
    """A run's network, optimiser and best state; what of it is in a checkpoint, `write` and `resume` say."""

    def __init__(self, recipe: Recipe, net: BertForSequenceClassification, reports: int, identity: str) -> None:
        import torch

        self.recipe, self.net, self.identity = recipe, net, identity
        self.per_epoch = -(-reports // recipe.batch)
        total = self.per_epoch * recipe.epochs
        rise = max(1, round(total * recipe.warmup))
        self.optimiser = torch.optim.AdamW(net.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: min((step + 1) / rise, max(0.0, (total - step) / max(1, total - rise)))
        )
        self.figure, self.best, self.best_state = -1.0, -1.0, net.state_dict()
        self.since, self.epoch = 0, 0

    def train_epoch(self, ids: Sequence[Sequence[int]], target: torch.Tensor, *, progress: bool) -> None:
        """One pass over all reports, in an order of the epoch's own."""
        import torch
        from tqdm import tqdm

        seed = self.recipe.seed * 1000 + self.epoch
        torch.manual_seed(seed + 1)  # an epoch's order and dropout depend on nothing before it
        generator = torch.Generator().manual_seed(seed)
        self.net.train()
        title = f"epoch {self.epoch + 1}"
        with tqdm(total=self.per_epoch, desc=title, unit="batch", disable=not progress, mininterval=5) as bar:
            for rows in _batches(ids, self.recipe.batch, generator):
                self.optimiser.zero_grad(set_to_none=True)
                loss = masked_loss(self.net, [ids[row] for row in rows], target[torch.from_numpy(rows)])
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
                self.optimiser.step()
                self.schedule.step()
                bar.update()
        self.net.train(mode=False)

    def judge(self, figure: float) -> None:
        """Count an epoch, and keep its weights if none was better."""
        self.figure = figure
        self.epoch, self.since = self.epoch + 1, self.since + 1
        if figure > self.best:
            self.best, self.since = figure, 0
            self.best_state = {key: value.clone() for key, value in self.net.state_dict().items()}

    def write(self, checkpoint: Path) -> None:
        """Write all that `resume` needs."""
        from training.train.checkpoint import save

        content = {
            "identity": self.identity,
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "best_net": self.best_state,
            "since": self.since,
            "epoch": self.epoch,
        }
        save(checkpoint, content)

    def resume(self, checkpoint: Path) -> None:
        """Take up the run where its checkpoint left it.

        Raises:
            ValueError: the checkpoint is of another run.
        """
        from training.train.checkpoint import load

        state = load(checkpoint)
        if state["identity"] != self.identity:
            raise ValueError(f"{checkpoint} is of another recipe or other reports; name another folder, or remove it")
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.best, self.best_state = state["best"], state["best_net"]
        self.since, self.epoch = state["since"], state["epoch"]


def masked_loss(net: BertForSequenceClassification, ids: Sequence[Sequence[int]], target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, summed over the known labels of ``target`` (B, 77; -1 = unknown), averaged over reports."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    rows, mask = padded(ids)
    logits = net(input_ids=rows, attention_mask=mask).logits
    known = target >= 0
    each = binary_cross_entropy_with_logits(logits, target.clamp(min=0), reduction="none")
    return (each * known).sum() / len(ids)


def _identity(
    recipe: Recipe, examples: Examples, validation: Examples, tokeniser: Tokenizer, start: Path | None
) -> str:
    """A digest of all that a run depends on."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    digest.update(json.dumps(sorted(tokeniser.get_vocab().items())).encode())
    for part in (examples, validation):
        digest.update("\0".join(part.texts).encode())
        digest.update(np.ascontiguousarray(part.labels).tobytes())
    if start is not None:
        digest.update((start / "config.json").read_bytes())
    return digest.hexdigest()
