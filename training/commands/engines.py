"""``deepecg-train compile`` and ``validate``: engines made of a run or a model, and held against fp32 torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from training.commands.options import Bundle, Leads, PassphraseFile, RecipeName
from training.defaults import HOURS, WINDOWS
from training.train.folds import ABOUT, WHOLE, folds_named
from training.train.recipes import LeadPolicy, Recipe, recipe_named

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from agent.core.bundle.limits import ParityLimits
    from agent.core.bundle.manifest import Manifest
    from training.evaluation.evidence import Score
    from training.publish.bundle import Contents
    from training.publish.engines import Asked
    from training.publish.report import Validation


SigningKey = Annotated[
    Path | None, typer.Option("--key", help="Private key that signs the bundle; without it no agent serves it.")
]


@dataclass(frozen=True, slots=True)
class Comparison:
    """On what engines are held against fp32 torch."""

    data: Annotated[
        Path | None,
        typer.Option(help="Dataset on whose windows engines are held against fp32 torch, beside the golden ones."),
    ] = None
    windows: Annotated[int, typer.Option(min=1, help="Windows of the dataset, some of every label.")] = WINDOWS
    hours: Annotated[float, typer.Option(min=0.0, help="Hours of whole recordings in which alerts are compared.")] = (
        HOURS
    )
    report: Annotated[Path | None, typer.Option(help="File for all that was found, as JSON.")] = None
    threads: Annotated[int, typer.Option(min=1, help="Processor threads, of torch and of each engine.")] = 1


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """Which network the bundle is of."""

    dataset: Annotated[
        Path | None,
        typer.Option(help="Of the run. Engines are held against fp32 torch on its windows, unless --data is given."),
    ] = None
    recipe: RecipeName = "demo"
    shipped: Annotated[
        str, typer.Option("--run", help="Which of the run's networks: 'all', or the fold that it never saw.")
    ] = WHOLE
    model: Annotated[
        Path | None, typer.Option(help="Model folder instead of a run: any head, no evidence, so it shows no finding.")
    ] = None
    leads: Leads = ""


@dataclass(frozen=True, slots=True)
class Described:
    """What the bundle is called, what it says of itself, and what it holds beside its engines."""

    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1.0.0"
    name: Annotated[str, typer.Option(help="Name of the bundle; default: by network and task.")] = ""
    known: Annotated[
        Path | None, typer.Option(help="Text file of what it is known to get wrong, a line each, for its README.")
    ] = None
    onnx: Annotated[
        bool, typer.Option(help="Put the ONNX file into the bundle, from which wards compile for their GPU.")
    ] = True
    weights: Annotated[
        bool, typer.Option(help="Put the weights into the bundle, so that deepecg-train validate needs nothing else.")
    ] = True

    @property
    def weaknesses(self) -> Sequence[str]:
        """The lines of `known`."""
        return self.known.read_text("utf-8").splitlines() if self.known is not None else ()


def compile_command(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] BUNDLE",
            help="Folder of the run, unless --model is given; folder of the bundle, which is replaced if it is there.",
        ),
    ],
    *,
    network: NetworkChoice,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="FLAVOUR-PRECISION[:BATCH,BATCH …], may be given again, the best first: an agent serves the first "
            "that fits. Default: OpenVINO, its fast precisions and f32."
        ),
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(help="Compute capability that a tensorrt-rtx engine is for, as 8.9; again for more."),
    ] = None,
    described: Described,
    key: SigningKey = None,
    passphrase_file: PassphraseFile = None,
    limits: Annotated[Path | None, typer.Option(help="JSON file of the gate's limits; default: the project's.")] = None,
    drop_failing: Annotated[
        bool, typer.Option("--drop-failing", help="Leave out an engine that fails, instead of writing no bundle.")
    ] = False,
    comparison: Comparison,
) -> None:
    """Compile a run or a model, hold each engine against fp32 torch, and write the bundle if they pass its gate."""
    from training.commands.bundle import private_key
    from training.data import WindowTable
    from training.publish.bundle import exported
    from training.publish.engines import compile_all, publish, sources_of

    signer = private_key(key, passphrase_file) if key is not None else None  # a wrong one is known before the work
    gate = _limits(limits)  # what cannot be is said before the work
    contents = replace(_contents(places, network, described), limits=gate, keep_weights=described.weights)
    asked = _asked(contents, engine)
    data = comparison.data or network.dataset
    table = WindowTable.open(data) if data is not None else None
    typer.echo("exporting the network", err=True)
    source = sources_of(exported(contents), onnx=described.onnx or any(one.flavour != "openvino" for one in asked))
    built, left_out = compile_all(source, asked, capabilities=capability or (), drop_failing=drop_failing)
    typer.echo("".join(f"{sentence}\n" for sentence in left_out), nl=False)
    seconds = {f"{one.flavour}-{one.precision}": one.seconds for one in built}
    manifest = publish(
        places[-1],
        contents,
        source,
        built,
        table=table,
        windows=comparison.windows,
        hours=comparison.hours,
        key=signer,
        drop_failing=drop_failing,
        threads=comparison.threads,
        tell=partial(_tell, report=comparison.report, seconds=seconds),
    )
    _tell_published(places[-1], manifest, signer)


def validate_command(
    bundle: Bundle,
    *,
    model: Annotated[
        Path | None, typer.Option(help="Model folder that it was compiled from, where the bundle holds no weights.")
    ] = None,
    comparison: Comparison,
) -> None:
    """Hold every engine of a bundle against fp32 torch, and against the gate; exit code 2 if one fails."""
    from agent.engines.bundles.bundle import UNSIGNED, open_bundle
    from training.data import WindowTable
    from training.publish.validate import compared, network_of, validate

    table = WindowTable.open(comparison.data) if comparison.data is not None else None
    opened = open_bundle(bundle, UNSIGNED)  # whoever signed it: what is asked is what its engines do
    with compared(table, opened.manifest, windows=comparison.windows, hours=comparison.hours) as chosen:
        found = validate(opened, network_of(opened, model), chosen, threads=comparison.threads)
    _tell(found, comparison.report)
    if found.failed:
        raise ValueError(
            f"{', '.join(one.engine for one in found.failed)} of {bundle} may not be served; compile it again"
        )


def _contents(places: Sequence[Path], network: NetworkChoice, described: Described) -> Contents:
    """All of the bundle but its engines, of a run or of a model folder."""
    if len(places) != (1 if network.model else 2):
        raise ValueError("name the run and the bundle, in this order, or the bundle alone and a model folder: --model")
    _check("version", described.version)
    if described.name:
        _check("name", described.name)
    if network.model is not None:
        return _of_model(network.model, described, network.leads)
    if network.dataset is None:
        raise ValueError(f"name the dataset of {places[0]}: --dataset")
    recipe = recipe_named(network.recipe, leads=network.leads)
    return _of_run(places[0], network.dataset, recipe, network.shipped, described)


def _asked(contents: Contents, engines: Sequence[str] | None) -> Sequence[Asked]:
    """The engines that are asked for, each once, or those that a network of its family has by default."""
    from training.models.weights import family_of
    from training.publish.engines import asked_from, defaults, once

    return once([asked_from(text) for text in engines]) if engines else defaults(family_of(contents.net))


def _of_run(output: Path, dataset: Path, recipe: Recipe, shipped: str, called: Described) -> Contents:
    """What the bundle of a run's network says."""
    from training.commands.bundle import network_of_run, rules_of
    from training.data import WindowTable
    from training.evaluation.evidence import POOLED
    from training.publish.bundle import Contents
    from training.publish.contents import golden_windows, identity_of, input_of, labels_of, training_of
    from training.publish.readme import readme_of

    folds, by_group = _checked_scores(output, recipe, shipped)
    scores = by_group[POOLED]
    replays = rules_of(output)
    net, config = network_of_run(output, shipped)
    table = WindowTable.open(dataset)
    left_out = None if shipped == WHOLE else int(shipped)
    training = training_of(table, recipe, scores, replays, folds, left_out)
    identity = identity_of(net, called.version)
    identity = replace(identity, name=called.name or identity.name)
    spec = input_of(config.preprocessing, recipe.leads)
    return Contents(
        net=net,
        config=config,
        labels=labels_of(scores, replays),
        input=spec,
        identity=identity,
        training=training,
        golden=golden_windows(spec),
        readme=readme_of(identity, training, by_group, replays, called.weaknesses),
    )


def _checked_scores(output: Path, recipe: Recipe, shipped: str) -> tuple[list[int], Mapping[str, Mapping[str, Score]]]:
    """The scores of a run by group and label, and the folds of their patients: those that ``shipped`` must have.

    Raises:
        ValueError: the run is of another recipe, or its evidence is not that of the network to be shipped.
    """
    from training.commands.bundle import EVIDENCE, scores_of

    about = output / ABOUT
    if about.is_file() and (of := json.loads(about.read_text("utf-8"))["recipe"]) != recipe.name:
        raise ValueError(f"{output} is a run of the recipe {of!r}, not of {recipe.name!r}; pass --recipe {of}")
    if shipped != WHOLE and [shipped] != folds_named(shipped, recipe.folds):
        raise ValueError(f"--run {shipped}: one network is shipped; name {WHOLE} or one fold")
    folds, by_group = scores_of(output)
    if shipped != WHOLE and folds != [int(shipped)]:
        raise ValueError(
            f"{output / EVIDENCE} is not of fold {shipped} alone, whose network is to be shipped; run: deepecg-train "
            f"evidence {output} --fold {shipped}, then thresholds"
        )
    return folds, by_group


def _of_model(folder: Path, called: Described, leads: str) -> Contents:
    """What the bundle of a model folder says: nothing of how well it does."""
    from training.models.ssl import Pretraining
    from training.models.weights import load_network, read_config
    from training.publish.bundle import Contents
    from training.publish.contents import (
        golden_windows,
        identity_of_model,
        input_of,
        labels_of_model,
        policy_of,
        training_of_model,
    )
    from training.publish.readme import readme_of_model

    net, config = load_network(folder), read_config(folder)
    if isinstance(net, Pretraining):
        raise ValueError(f"{folder} is a pretraining network; fine-tune it first")  # noqa: TRY004  (a folder's)
    if leads and leads not in get_args(LeadPolicy):
        raise ValueError(f"there is no --leads {leads!r}; take one of {', '.join(get_args(LeadPolicy))}")
    spec = input_of(config.preprocessing, cast(LeadPolicy, leads) if leads else policy_of(config))
    identity = identity_of_model(config, sum(p.numel() for p in net.parameters()), called.version, name=called.name)
    training, labels = training_of_model(config), labels_of_model(config)
    return Contents(
        net=net,
        config=config,
        labels=labels,
        input=spec,
        identity=identity,
        training=training,
        golden=golden_windows(spec),
        readme=readme_of_model(identity, training, labels, spec, called.weaknesses),
    )


def _tell(found: Validation, report: Path | None, seconds: Mapping[str, float] | None = None) -> None:
    from training.publish.report import as_json, table_of

    for line in table_of(found, seconds):
        typer.echo(line)
    if report is not None:
        report.write_text(json.dumps(as_json(found, seconds), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _tell_published(bundle: Path, manifest: Manifest, signer: Ed25519PrivateKey | None) -> None:
    from agent.engines.bundles import signing

    size = sum(entry.size for entry in manifest.files.values())
    offered = ", ".join(f"{one.flavour}-{one.precision}" for one in manifest.engines)
    typer.echo(f"{bundle}: {manifest.model_id}, {size / 1e6:.1f} MB, engines {offered}")
    if signer is None:
        typer.echo(f"It is not signed, and no agent serves it until it is: deepecg-train sign {bundle} --key KEY")
    else:
        typer.echo(f"Signed by key {signing.key_id(signer.public_key())}.")


def _check(field: str, value: str) -> None:
    """Against the manifest's rule, before minutes of work."""
    from pydantic import TypeAdapter, ValidationError

    from agent.core.bundle.manifest import Manifest

    rule = Manifest.model_fields[field]
    try:
        TypeAdapter(Annotated[str, rule]).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"--{field} {value!r}: {error.errors()[0]['msg']}") from error


def _limits(path: Path | None) -> ParityLimits:
    """The gate's limits: those of a file, or the project's."""
    from pydantic import ValidationError

    from agent.core.bundle.limits import ParityLimits

    if path is None:
        return ParityLimits()
    try:
        return ParityLimits.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{path}: {'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}; limits are "
            f"{', '.join(ParityLimits.model_fields)}"
        ) from error
