"""``deepecg-train evidence`` and ``thresholds``, which a bundle is compiled from; ``keygen``, ``sign``, ``verify``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.commands.options import Bundle, Dataset, PassphraseFile, RecipeName, Run, Threads
from training.train.folds import EACH, WHOLE, folds_named
from training.train.recipes import recipe_named

if TYPE_CHECKING:
    import numpy as np
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from numpy.typing import NDArray

    from agent.core.ecg import FloatArray
    from training.data import WindowTable
    from training.evaluation.alerts import Replay
    from training.evaluation.evidence import Score
    from training.models.sl import DeepECGSL
    from training.models.ssl import DeepECGSSL
    from training.models.weights import ModelConfig

EVIDENCE, THRESHOLDS, PREDICTIONS = "evidence.json", "thresholds.json", "predictions.npz"
UNSEEN = "unseen.npy"
"""(n, 77): every window's probabilities by the network that never saw its patient; NaN where there is none."""


def network_of_run(output: Path, name: str) -> tuple[DeepECGSL | DeepECGSSL, ModelConfig]:
    """The network of a fold, or of the run on all, with its config."""
    from training.models.ssl import Pretraining
    from training.models.weights import load_network, read_config
    from training.train.run import MODEL

    folder = output / name / MODEL
    if not folder.is_dir():
        raise ValueError(f"no {folder}; run: deepecg-train train {output} --fold {name}, until it is finished")
    net, config = load_network(folder), read_config(folder)
    if isinstance(net, Pretraining) or config.order != "sl":
        raise ValueError(f"{folder} is no network of the 77 labels in their order; fine-tune one by its recipe")
    return net, config


def rules_of(output: Path) -> dict[str, Replay]:
    """The replay of each label that has a rule."""
    from training.evaluation.alerts import Persistence, Replay

    return {
        label: Replay(**fields | {"rule": Persistence(**fields["rule"]), "delays": tuple(fields["delays"])})
        for label, fields in _read(output, THRESHOLDS, "thresholds").items()
    }


def _read(output: Path, name: str, made_by: str) -> Any:
    path = output / name
    if not path.is_file():
        raise ValueError(f"no {path}; run: deepecg-train {made_by} {output}")
    return json.loads(path.read_text("utf-8"))


def scores_of(output: Path) -> tuple[list[int], dict[str, dict[str, Score]]]:
    """The folds whose patients were scored, and their scores by group and label."""
    from training.evaluation.evidence import Score

    read = _read(output, EVIDENCE, "evidence")
    if read.keys() != {"folds", "scores"}:
        raise ValueError(f"{output / EVIDENCE} is of an older version; run: deepecg-train evidence {output}")
    scores = read["scores"]
    return read["folds"], {
        group: {name: Score(**fields) for name, fields in found.items()} for group, found in scores.items()
    }


def _write(output: Path, name: str, content: Mapping[str, Any]) -> None:
    from training.publish.bundle import as_plain

    (output / name).write_text(json.dumps(as_plain(content), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _unseen(
    output: Path, folds: NDArray[np.int64], table: WindowTable, threads: int
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Probabilities (n, 77) by the network of the fold (n,) that left a window out, NaN where there is none: as the
    windows are, and by the name of a lead set those of twelve-lead windows that are reduced to it."""
    import numpy as np

    from agent.core.labels import LABELS
    from training.evaluation.evidence import LEAD_SETS
    from training.publish.export import Network, convert, samples_of

    whole = np.full((len(table), len(LABELS)), np.nan, np.float32)
    reduced = {name: whole.copy() for name in LEAD_SETS}
    for fold in np.unique(folds[folds >= 0]).tolist():
        index = np.flatnonzero(folds == fold)
        net, config = network_of_run(output, str(fold))
        network = Network(convert(net, samples_of(table.preprocessing)), threads)
        gain = config.preprocessing.gain
        whole[index] = network.predict(table, index, gain, progress=True)
        twelve = index[table.lead_mask[index].all(axis=1)]
        for name, leads in LEAD_SETS.items():
            reduced[name][twelve] = network.predict(table, twelve, gain, leads=leads)
    return whole, reduced


def evidence(
    output: Run,
    dataset: Dataset,
    recipe: RecipeName = "demo",
    fold: Annotated[
        str, typer.Option(help="Comma-separated folds whose patients are scored; their networks must be there.")
    ] = EACH,
    threads: Threads = 2,
) -> None:
    """Score every patient by the network that never saw that patient; print and keep the figures that a bundle needs.

    predictions.npz, which it leaves in the folder, is what `evaluate` and `compare` take.
    """
    import numpy as np

    from agent.core.labels import LABEL_NAMES
    from training.data import WindowTable
    from training.evaluation.cases import Cases
    from training.evaluation.evidence import POOLED, groups, score_all
    from training.publish.contents import trained_on

    chosen = recipe_named(recipe)
    named = folds_named(fold, chosen.folds)
    if WHOLE in named or not named:
        raise ValueError(f"--fold {fold}: the run on all patients left none of them out; name folds, or {EACH}")
    scored = sorted(map(int, named))
    table = WindowTable.open(dataset)
    folds = np.where(trained_on(table), table.folds(chosen.folds), -1)
    folds[~np.isin(folds, scored)] = -1
    probabilities, reduced = _unseen(output, folds, table, threads)
    np.save(output / UNSEEN, probabilities)
    Cases.from_table(table, probabilities, LABEL_NAMES).select(folds >= 0).save(output / PREDICTIONS)
    scores = {group: score_all(LABEL_NAMES, probabilities, table, use) for group, use in groups(table).items()}
    scores |= {name: score_all(LABEL_NAMES, found, table) for name, found in reduced.items()}
    plain = {group: {name: asdict(score) for name, score in found.items()} for group, found in scores.items()}
    (output / THRESHOLDS).unlink(missing_ok=True)  # chosen by what is no longer there
    _write(output, EVIDENCE, {"folds": scored, "scores": plain})
    for score in sorted(scores[POOLED].values(), key=lambda s: -s.positive_patients):
        mark = "evidence" if score.is_evidence else ""
        typer.echo(
            f"{score.label:48s} {score.auroc:.3f} ({score.lower:.3f}–{score.upper:.3f}) "
            f"{score.positive_patients:4d} + {score.negative_patients:4d} patients  {mark}"
        )


def thresholds(output: Run, dataset: Dataset) -> None:
    """Choose alert thresholds on continuous recordings of unseen patients; print and keep them."""
    import numpy as np

    from agent.core.labels import LABEL_NAMES, LABELS
    from training.data import WindowTable
    from training.evaluation.alerts import rules
    from training.evaluation.evidence import POOLED

    table = WindowTable.open(dataset)
    scores = scores_of(output)[1][POOLED]
    probabilities = np.load(output / UNSEEN, allow_pickle=False)
    evident = [
        info.name
        for info in LABELS
        if info.severity.value == "pathological" and info.name in scores and scores[info.name].is_evidence
    ]
    chosen = rules(LABEL_NAMES, table, probabilities, evident)
    _write(output, THRESHOLDS, {name: asdict(replay) for name, replay in chosen.items()})
    for name in evident:
        replay = chosen.get(name)
        if replay is None:
            typer.echo(f"{name}: evidence, but no rule (see training.evaluation.alerts.rules for what it takes)")
            continue
        low, high = replay.interval
        typer.echo(
            f"{name}: threshold {replay.threshold:g} for {replay.rule.open_after} windows, "
            f"{replay.false_alerts} false alerts in {replay.negative_hours:.1f} h, "
            f"{replay.per_bed_day:.2f} ({low:.2f}–{high:.2f}) per bed-day; found {replay.detected}/{replay.episodes} "
            f"episodes, {replay.detected_patients}/{replay.positive_patients} patients, "
            f"sensitivity {replay.sensitivity:.2f}"
        )


def keygen(
    key: Annotated[Path, typer.Argument(help="File for the private key; KEY.pub beside it is the public half.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make an Ed25519 key pair that signs bundles. The private half stays with the publisher, never on a ward."""
    from agent.engines.bundles import signing

    public = key.with_name(key.name + ".pub")
    made = signing.generate(key, public, passphrase=signing.read_passphrase(passphrase_file))
    typer.echo(f"{key}: private key {made}, mode 0600; {public}: its public half, for [engine] trusted_keys on wards")


def sign(
    bundle: Bundle,
    key: Annotated[Path, typer.Option(help="Private key, as keygen has written it.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Check a bundle whole and sign its manifest; an older signature is replaced."""
    from agent.engines.bundles import signing
    from agent.engines.bundles.bundle import SIGNATURE
    from training.publish.bundle import sign_bundle

    signer = private_key(key, passphrase_file)
    checked = sign_bundle(bundle, signer)
    typer.echo(
        f"{bundle / SIGNATURE}: {checked.manifest.model_id} (manifest {checked.sha256[:16]}…) is signed by key "
        f"{signing.key_id(signer.public_key())}"
    )


def verify(
    bundle: Bundle,
    key: Annotated[list[Path], typer.Option(help="Public key that may have signed it; may be given again.")],
) -> None:
    """Check a bundle as an agent that trusts these keys does: signature, manifest, every file's checksum."""
    from agent.engines.bundles import signing
    from agent.engines.bundles.bundle import open_bundle

    trust = signing.Trust.of(key)
    checked = open_bundle(bundle, trust)
    if checked.signer not in trust.keys:  # the package vouches for its own demonstration, and none of these keys does
        raise ValueError(f"{bundle} is signed by key {checked.signer}, which is none of those given; name its file too")
    typer.echo(f"{bundle}: {checked.manifest.model_id} (manifest {checked.sha256[:16]}…), good, key {checked.signer}")


def private_key(key: Path, passphrase_file: Path | None) -> Ed25519PrivateKey:
    """The key in this file."""
    from agent.engines.bundles import signing

    return signing.load_private_key(key, passphrase=signing.read_passphrase(passphrase_file))
