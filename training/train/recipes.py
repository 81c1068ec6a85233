"""Recipes: each a function that returns the whole configuration of a training run.

``published`` in a docstring means: the hyper-parameters of the paper's public code (HeartWise-AI, fairseq-signals
configurations and fine-tuning notebooks). What is published nowhere is said to be ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, cast, get_args

from training.models.kinds import DIAGNOSES, Codebook, ConvBlock, SLConfig, SSLConfig, released

Precision = Literal["f32", "bf16", "f16"]
LeadPolicy = Literal["all", "bedside", "limb", "two", "random"]
"""What windows are reduced to (`training.train.augment.POLICIES`)."""
LossName = Literal["bce", "bce_positives", "focal", "mse"]
"""Which loss (`training.train.objectives`)."""


@dataclass(frozen=True, slots=True)
class Optimiser:
    """How weights move. Weight decay is decoupled (AdamW), which is also what fairseq's ``adam`` does."""

    rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Of matrices and kernels; biases and norms have none."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 = any."""
    schedule: Literal["constant", "cosine"] = "constant"
    """``cosine`` falls as half a cosine to zero at the last step."""
    warm_up: float = 0.0
    """Share of the steps over which the rate rises linearly."""
    head_only: bool = False
    """Train the last layer alone (a linear probe)."""


@dataclass(frozen=True, slots=True)
class Masking:
    """The published masking (wav2vec 2.0, section 3.1, on ECG tokens)."""

    share: float = 0.65
    """Of the tokens, were no two spans to overlap; they may, so that about a third to a half is masked."""
    span: int = 10
    """Tokens."""
    least: int = 2
    """Spans."""
    negatives: int = 100
    """For each masked token, drawn from the other masked tokens of the same segment."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a run depends on, beside the data and the split."""

    name: str
    network: SLConfig | SSLConfig
    optimiser: Optimiser
    batch: int
    """Windows (pretraining: recordings, each of two segments) of a step, over all ranks and micro-batches."""
    steps: int = 0
    """0: as ``epochs`` says."""
    epochs: float = 0.0
    task: str = DIAGNOSES
    loss: LossName = "bce"
    codebook: Codebook | None = None
    """Of pretraining, and of nothing else."""
    masking: Masking = field(default_factory=Masking)
    temperature: tuple[float, float, float] = (2.0, 0.5, 0.999995)
    """Of the Gumbel softmax: at the start, at the end, factor of a step."""
    seed: int = 20261123
    accumulate: int = 1
    """Micro-batches of a step."""
    precision: Precision = "f32"
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """``balanced`` draws rare labels more often, and in pretraining patients evenly (`training.train.sampling`)."""
    twelve_lead_share: float = 0.5
    """Of a balanced batch; the rest are windows of continuous recordings."""
    emphasis: Mapping[str, float] = field(default_factory=dict)
    """Outputs whose windows are drawn so many times more often."""
    leads: LeadPolicy = "all"
    disturb: bool = False
    """Noise, wander and other amplitudes (`training.train.augment.disturb`)."""
    short_share: float = 0.0
    """Share of the steps, at the start, that see crops of ``short_seconds``: more of them for the same time
    (progressive learning, Tan and Le, EfficientNetV2, 2021)."""
    short_seconds: float = 5.0
    prevalence_start: bool = False
    """The head begins at each label's log-odds, so that the first steps need not find them."""
    ema: float = 0.0
    """Decay of the running mean of the weights, which is then what a run gives; 0 = none."""
    patience: int = 0
    """Validations without a better score after which a run ends; 0 = no validation, the last state is the result."""
    validate_every: int = 0
    """Steps; 0 = once an epoch."""
    folds: int = 5
    checkpoint_every: int = 50

    @property
    def pretraining(self) -> bool:
        """True where the task is the self-supervised one."""
        return self.codebook is not None


PUBLISHED_PRETRAINING = Optimiser(5e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
PUBLISHED_FINE_TUNING = Optimiser(5e-5, betas=(0.9, 0.98), eps=1e-8)
PUBLISHED_SL = Optimiser(1e-3, schedule="cosine")


def ssl_pretrain() -> Recipe:
    """Published: the full-size network, 2052 recordings a step, f16, 200 epochs at a constant rate."""
    network = SSLConfig(
        labels=0,
        dropout=0.1,
        attention_dropout=0.1,
        activation_dropout=0.0,
        input_dropout=0.1,
        feature_gradient=0.1,
    )
    return Recipe(
        "ssl-pretrain",
        network,
        PUBLISHED_PRETRAINING,
        batch=2052,
        accumulate=6,
        epochs=200,
        task="pretraining",
        codebook=Codebook(),
        precision="f16",
        leads="random",
        checkpoint_every=500,
    )


def ssl_fine_tune(name: str, task: str, loss: LossName, labels: int = 1) -> Recipe:
    """Published: the tokeniser frozen, at most 100 epochs, the best by validation, f16."""
    return Recipe(
        name,
        SSLConfig(labels=labels),
        PUBLISHED_FINE_TUNING,
        batch=128,
        epochs=100,
        task=task,
        loss=loss,
        precision="f16",
        patience=30,
        checkpoint_every=500,
    )


def sl_train(name: str, task: str, loss: LossName, labels: int = 1) -> Recipe:
    """Of SL the fine-tuning is published: batch 254, 50 epochs, patience 5, focal loss. No recipe is for the 77 labels:
    the same hyper-parameters are taken for them, with plain cross-entropy."""
    return Recipe(
        name,
        released(labels),
        PUBLISHED_SL,
        batch=254,
        epochs=50,
        task=task,
        loss=loss,
        patience=5,
        prevalence_start=task == DIAGNOSES,
        checkpoint_every=500,
    )


BIOMARKERS: Mapping[str, tuple[str, LossName]] = {
    "lvef-40": ("lvef_40", "bce_positives"),
    "lvef-50": ("lvef_50", "bce_positives"),
    "af-5y": ("af_5y", "focal"),
    "lqts": ("lqts", "bce_positives"),
    "lqts-type": ("lqts_type", "bce_positives"),
    "lvef": ("lvef", "mse"),
}
"""Task and published loss by name; for LQTS the public scripts try several, and this one is ours."""


def demo() -> Recipe:
    """Ours: the bundle that the project ships, the released network, sized for an hour on two cores with bf16."""
    return Recipe(
        "demo",
        replace(released(), drop_path=0.1),
        Optimiser(3e-3, weight_decay=0.02, clip=1.0, schedule="cosine", warm_up=0.05),
        batch=32,
        steps=1800,
        precision="bf16",
        sampling="balanced",
        emphasis={"Afib": 3.0, "Ventricular tachycardia": 3.0},
        leads="bedside",
        disturb=True,
        short_share=0.7,
        prevalence_start=True,
        ema=0.99,
        folds=3,
    )


SMALL = SSLConfig(convolutions=(128, 128, 128, 128), width=192, layers=4, heads=3, feed_forward=768, position_groups=16)
"""A network of a fortieth of the published size (2.2 million parameters), for two cores."""


def demo_pretrain() -> Recipe:
    """Ours: the small SSL network, pretrained for about half an hour on two cores, on the folds of the fine-tuning."""
    return Recipe(
        "demo-pretrain",
        replace(SMALL, labels=0, dropout=0.05, activation_dropout=0.0, input_dropout=0.05, feature_gradient=0.1),
        Optimiser(5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, clip=1.0, schedule="cosine", warm_up=0.05),
        batch=32,
        steps=1000,
        task="pretraining",
        codebook=Codebook(codes=160, width=64, final=128),
        temperature=(2.0, 0.5, 0.9995),
        precision="bf16",
        sampling="balanced",
        twelve_lead_share=0.6,
        leads="random",
        folds=3,
    )


def demo_fine_tune() -> Recipe:
    """Ours: the small SSL network on the 77 labels, after `demo_pretrain`, with the demonstration's augmentation."""
    return replace(
        demo(),
        name="demo-ssl",
        network=replace(SMALL, feature_gradient=0.1, dropout=0.1),
        optimiser=Optimiser(5e-4, betas=(0.9, 0.98), weight_decay=0.01, clip=1.0, schedule="cosine", warm_up=0.1),
    )


def smoke() -> Recipe:
    """A network and a run so small that a test sees all of the way."""
    blocks = (ConvBlock(8, 3), ConvBlock(8, 5, 2), ConvBlock(12, 3, 2, 16), ConvBlock(12, 3, 1, 24))
    return replace(
        demo(),
        name="smoke",
        network=SLConfig(stem=8, blocks=blocks, tail=16),
        precision="f32",
        steps=6,
        batch=4,
        short_share=0.5,
        ema=0.5,
        checkpoint_every=2,
    )


TINY = SSLConfig(0, 12, (16,) * 4, 32, 2, 4, 64, 16, 4, feature_gradient=0.1)


def smoke_pretrain() -> Recipe:
    """The same for pretraining."""
    return replace(
        demo_pretrain(),
        name="smoke-pretrain",
        network=TINY,
        codebook=Codebook(2, 8, 6, 12),
        masking=Masking(span=4, negatives=5),
        precision="f32",
        steps=6,
        batch=4,
        checkpoint_every=2,
    )


def smoke_fine_tune() -> Recipe:
    """The same for fine-tuning."""
    return replace(smoke(), name="smoke-ssl", network=replace(TINY, labels=77))


def with_leads(base: Callable[[], Recipe], leads: LeadPolicy) -> Recipe:
    """A recipe whose windows are reduced to what a bedside has."""
    recipe = base()
    return replace(recipe, name=f"{recipe.name}-{leads}", leads=leads)


_SSL_77 = partial(ssl_fine_tune, "ssl-77", DIAGNOSES, "bce_positives", 77)
_SL_77 = partial(sl_train, "sl-77", DIAGNOSES, "bce", 77)

RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "ssl-pretrain": ssl_pretrain,
    "ssl-77": _SSL_77,
    "sl-77": _SL_77,
    **{f"ssl-{name}": partial(ssl_fine_tune, f"ssl-{name}", *about) for name, about in BIOMARKERS.items()},
    **{
        f"sl-{name}": partial(sl_train, f"sl-{name}", task, "mse" if loss == "mse" else "focal")
        for name, (task, loss) in BIOMARKERS.items()
    },
    # For beds with few electrodes: any of them, three (I, II, III), or II and a chest lead.
    "ssl-77-bedside": partial(with_leads, _SSL_77, "bedside"),
    "ssl-77-limb": partial(with_leads, _SSL_77, "limb"),
    "ssl-77-two": partial(with_leads, _SSL_77, "two"),
    "sl-77-bedside": partial(with_leads, _SL_77, "bedside"),
    "sl-77-limb": partial(with_leads, _SL_77, "limb"),
    "sl-77-two": partial(with_leads, _SL_77, "two"),
    "demo": demo,
    "demo-pretrain": demo_pretrain,
    "demo-ssl": demo_fine_tune,
    "smoke": smoke,
    "smoke-pretrain": smoke_pretrain,
    "smoke-ssl": smoke_fine_tune,
}


def recipe_named(
    name: str,
    *,
    precision: str = "",
    leads: str = "",
    seed: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    accumulate: int | None = None,
) -> Recipe:
    """The recipe of this name with what the command line changes.

    Raises:
        ValueError: there is none of the name, or no such precision or leads.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; take one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    precisions, policies = get_args(Precision), get_args(LeadPolicy)
    for given, known, what in ((precision, precisions, "precision"), (leads, policies, "leads")):
        if given and given not in known:
            raise ValueError(f"there is no --{what} {given!r}; take one of {', '.join(known)}")
    return replace(
        recipe,
        precision=cast(Precision, precision or recipe.precision),
        leads=cast(LeadPolicy, leads or recipe.leads),
        seed=recipe.seed if seed is None else seed,
        steps=steps or recipe.steps,
        batch=batch or recipe.batch,
        accumulate=accumulate or recipe.accumulate,
    )
