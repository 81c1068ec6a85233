"""``deepecg-train``: recordings in, a signed engine bundle out, in steps that each leave their result in a folder."""

from __future__ import annotations

from agent.core.errors import DeepECGError
from agent.ops.cli import Command, Group, application, run

LABELS = Group(
    "The 77 labels from free-text reports: dictionary, classifier, scores.",
    {
        "extract": Command(
            "training.commands.labels:extract_command",
            "Read labels by the dictionary: of one report with an explanation, or of a table into files, row by row.",
        ),
        "import": Command(
            "training.commands.labels:import_command",
            "Read a published report classifier, without running anything in it, into a folder for 'labels classify'.",
        ),
        "classify": Command(
            "training.commands.labels:classify_command",
            "Read labels by a classifier: of one report, or of a table into a file, batch by batch.",
        ),
        "train": Command(
            "training.commands.labels:train_command",
            "Train the report classifier on reports with codes; a run that was interrupted goes on when started again.",
        ),
        "score": Command(
            "training.commands.labels:score_command",
            "Score dictionary, classifier and their union against the codes: per label, by language, with what is "
            "confused.",
        ),
    },
)

COMMANDS: dict[str, Command | Group] = {
    "prepare": Command(
        "training.commands.data:prepare_command",
        "Read archives, check every recording, drop copies, and write windows with their table into DATASET.",
    ),
    "describe": Command(
        "training.commands.data:describe_command",
        "Count what is in DATASET: sources, labels, sex, age, lead sets, and what was refused and why.",
    ),
    "labels": LABELS,
    "import": Command(
        "training.commands.weights:import_command",
        "Import published weights: TorchScript, state dict, pickled module, fairseq checkpoint, or BERT's folder.",
    ),
    "pretrain": Command(
        "training.commands.train:pretrain",
        "Pretrain DeepECG-SSL without labels: wav2vec 2, CMSC and random lead masking.",
    ),
    "train": Command("training.commands.train:train", "Train a network from scratch on labels or a biomarker."),
    "finetune": Command(
        "training.commands.train:finetune", "Fine-tune pretrained or published weights on labels or a biomarker."
    ),
    "predict": Command(
        "training.commands.train:predict",
        "Write a model's probabilities for the windows of a dataset, with the truth beside them.",
    ),
    "throughput": Command(
        "training.commands.train:throughput",
        "Time a recipe's training step and print its share of the measured matrix peak, as JSON.",
    ),
    "label-efficiency": Command(
        "training.commands.experiment:label_efficiency_command",
        "Train SL, SSL with pretraining and SSL without it on growing shares of the labels, and compare them.",
    ),
    "evaluate": Command(
        "training.commands.evaluate:evaluate",
        "Evaluate predictions: report.html, evaluation.json and model-card.md.",
    ),
    "compare": Command(
        "training.commands.evaluate:compare",
        "Compare two models on the same cases: DeLong's test for each output, and the difference of macro AUROC.",
    ),
    "fairness": Command(
        "training.commands.evaluate:fairness",
        "Tell how far a model's figures differ by sex, age band and both; rates need --validation or --thresholds.",
    ),
    "resources": Command(
        "training.commands.evaluate:resources",
        "Print a network's parameters, multiply-accumulates, latency, memory and energy, as JSON.",
    ),
    "evidence": Command(
        "training.commands.bundle:evidence",
        "Score every patient by the network that never saw that patient; print and keep the figures that a bundle "
        "needs.",
    ),
    "thresholds": Command(
        "training.commands.bundle:thresholds",
        "Choose alert thresholds on continuous recordings of unseen patients; print and keep them.",
    ),
    "keygen": Command(
        "training.commands.bundle:keygen",
        "Make an Ed25519 key pair that signs bundles. The private half stays with the publisher, never on a ward.",
    ),
    "sign": Command(
        "training.commands.bundle:sign",
        "Check a bundle whole and sign its manifest; an older signature is replaced.",
    ),
    "verify": Command(
        "training.commands.bundle:verify",
        "Check a bundle as an agent that trusts these keys does: signature, manifest, every file's checksum.",
    ),
    "compile": Command(
        "training.commands.engines:compile_command",
        "Compile a run or a model, hold each engine against fp32 torch, and write the bundle if they pass its gate.",
    ),
    "validate": Command(
        "training.commands.engines:validate_command",
        "Hold every engine of a bundle against fp32 torch, and against the gate; exit code 2 if one fails.",
    ),
}
"""By name, in the order in which work passes them."""

app = application(
    "Recordings in, a signed engine bundle out, in steps that each leave their result in a folder.", COMMANDS
)


def main() -> None:
    """Entry point; an error that a person can mend is one sentence and exit code 2."""
    run("deepecg-train", app, mendable=(DeepECGError, ValueError, FileNotFoundError))


if __name__ == "__main__":
    main()
