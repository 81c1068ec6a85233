"""``deepecg-train compile`` and ``validate``: engines made of a run or a model, and held against fp32 torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer
from pydantic import TypeAdapter, ValidationError

from agent.core.bundle.limits import ParityLimits
from agent.core.bundle.manifest import Manifest
from agent.engines.bundles import signing
from agent.engines.bundles.bundle import UNSIGNED, open_bundle
from training.commands.bundle import (
    EVIDENCE,
    Folder,
    PassphraseFile,
    RecipeName,
    network_of_run,
    private_key,
    rules_of,
    scores_of,
)
from training.commands.train import ABOUT, WHOLE, LeadsName, folds_named, recipe_named
from training.data import WindowTable
from training.evaluation.evidence import POOLED
from training.models.ssl import Pretraining
from training.models.weights import family_of, load_network, read_config
from training.publish.bundle import Contents, exported
from training.publish.contents import (
    golden_windows,
    identity_of,
    identity_of_model,
    input_of,
    labels_of,
    labels_of_model,
    policy_of,
    training_of,
    training_of_model,
)
from training.publish.engines import asked_from, compile_all, defaults, once, publish, sources_of
from training.publish.readme import readme_of, readme_of_model
from training.publish.report import Validation, as_json, table_of
from training.publish.validate import HOURS, WINDOWS, compared, network_of, validate
from training.train.augment import POLICIES, LeadPolicy
from training.train.recipes import Recipe

app = typer.Typer()

Threads = Annotated[int, typer.Option(min=1, help="Processor threads, of torch and of each engine.")]
Data = Annotated[
    Path | None,
    typer.Option(help="Dataset on whose windows engines are held against fp32 torch, beside the golden ones."),
]
WindowCount = Annotated[int, typer.Option("--windows", min=1, help="Windows of the dataset, some of every label.")]
Hours = Annotated[float, typer.Option(min=0.0, help="Hours of whole recordings in which alerts are compared.")]
ReportFile = Annotated[Path | None, typer.Option(help="File for all that was found, as JSON.")]


@app.command(name="compile")
def compile_command(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] BUNDLE",
            help="Folder of the run, unless --model is given; folder of the bundle, which is replaced if it is there.",
        ),
    ],
    dataset: Annotated[
        Path | None,
        typer.Option(help="Of the run. Engines are held against fp32 torch on its windows, unless --data is given."),
    ] = None,
    recipe: RecipeName = "demo",
    shipped: Annotated[
        str, typer.Option("--run", help="Which of the run's networks: 'all', or the fold that it never saw.")
    ] = WHOLE,
    model: Annotated[
        Path | None, typer.Option(help="Model folder instead of a run: any head, no evidence, so it shows no finding.")
    ] = None,
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
    leads: LeadsName = "",
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1.0.0",
    name: Annotated[str, typer.Option(help="Name of the bundle; default: by network and task.")] = "",
    known: Annotated[
        Path | None, typer.Option(help="Text file of what it is known to get wrong, a line each, for its README.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Private key that signs the bundle; without it no agent serves it.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    onnx: Annotated[
        bool, typer.Option(help="Put the ONNX file into the bundle, from which wards compile for their GPU.")
    ] = True,
    weights: Annotated[
        bool, typer.Option(help="Put the weights into the bundle, so that deepecg-train validate needs nothing else.")
    ] = True,
    limits: Annotated[Path | None, typer.Option(help="JSON file of the gate's limits; default: the project's.")] = None,
    drop_failing: Annotated[
        bool, typer.Option("--drop-failing", help="Leave out an engine that fails, instead of writing no bundle.")
    ] = False,
    data: Data = None,
    windows: WindowCount = WINDOWS,
    hours: Hours = HOURS,
    report: ReportFile = None,
    threads: Threads = 1,
) -> None:
    """Compile a run or a model, hold each engine against fp32 torch, and write the bundle if they pass its gate."""
    signer = private_key(key, passphrase_file) if key is not None else None  # a wrong one is known before the work
    if len(places) != (1 if model else 2):
        raise ValueError("name the run and the bundle, in this order, or the bundle alone and a model folder: --model")
    _check("version", version)
    if name:
        _check("name", name)
    weaknesses = known.read_text("utf-8").splitlines() if known is not None else ()
    gate = _limits(limits)
    if model is not None:
        contents = _of_model(model, version, name, leads, weaknesses)
    elif dataset is not None:
        contents = _of_run(places[0], dataset, recipe_named(recipe, leads=leads), shipped, version, name, weaknesses)
    else:
        raise ValueError(f"name the dataset of {places[0]}: --dataset")
    contents = replace(contents, limits=gate, keep_weights=weights)
    family = family_of(contents.net)
    asked = once([asked_from(text) for text in engine]) if engine else defaults(family)
    compared_on = data or dataset
    table = WindowTable.open(compared_on) if compared_on is not None else None

    typer.echo("exporting the network", err=True)
    source = sources_of(exported(contents), onnx=onnx or any(one.flavour != "openvino" for one in asked))
    built, left_out = compile_all(source, asked, capabilities=capability or (), drop_failing=drop_failing)
    for sentence in left_out:
        typer.echo(sentence)
    seconds = {f"{one.flavour}-{one.precision}": one.seconds for one in built}

    def tell(found: Validation) -> None:
        _tell(found, report, seconds)

    bundle = places[-1]
    manifest = publish(
        bundle,
        contents,
        source,
        built,
        table=table,
        windows=windows,
        hours=hours,
        key=signer,
        drop_failing=drop_failing,
        threads=threads,
        tell=tell,
    )
    size = sum(entry.size for entry in manifest.files.values())
    offered = ", ".join(f"{one.flavour}-{one.precision}" for one in manifest.engines)
    typer.echo(f"{bundle}: {manifest.model_id}, {size / 1e6:.1f} MB, engines {offered}")
    if signer is None:
        typer.echo(f"It is not signed, and no agent serves it until it is: deepecg-train sign {bundle} --key KEY")
    else:
        typer.echo(f"Signed by key {signing.key_id(signer.public_key())}.")


def _of_run(
    output: Path, dataset: Path, recipe: Recipe, shipped: str, version: str, name: str, weaknesses: Sequence[str]
) -> Contents:
    """What the bundle of a run's network says."""
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
    scores = by_group[POOLED]
    replays = rules_of(output)
    net, config = network_of_run(output, shipped)
    table = WindowTable.open(dataset)
    left_out = None if shipped == WHOLE else int(shipped)
    training = training_of(table, recipe, scores, replays, folds, left_out)
    identity = identity_of(net, version)
    identity = replace(identity, name=name or identity.name)
    spec = input_of(config.preprocessing, recipe.leads)
    return Contents(
        net=net,
        config=config,
        labels=labels_of(scores, replays),
        input=spec,
        identity=identity,
        training=training,
        golden=golden_windows(spec),
        readme=readme_of(identity, training, by_group, replays, weaknesses),
    )


def _of_model(folder: Path, version: str, name: str, leads: str, weaknesses: Sequence[str]) -> Contents:
    """What the bundle of a model folder says: nothing of how well it does."""
    net, config = load_network(folder), read_config(folder)
    if isinstance(net, Pretraining):
        raise ValueError(f"{folder} is a pretraining network; fine-tune it first")  # noqa: TRY004  (a folder's)
    if leads and leads not in POLICIES:
        raise ValueError(f"there is no --leads {leads!r}; take one of {', '.join(POLICIES)}")
    spec = input_of(config.preprocessing, cast(LeadPolicy, leads) if leads else policy_of(config))
    identity = identity_of_model(config, sum(p.numel() for p in net.parameters()), version, name=name)
    training, labels = training_of_model(config), labels_of_model(config)
    return Contents(
        net=net,
        config=config,
        labels=labels,
        input=spec,
        identity=identity,
        training=training,
        golden=golden_windows(spec),
        readme=readme_of_model(identity, training, labels, spec, weaknesses),
    )


@app.command(name="validate")
def validate_command(
    bundle: Folder,
    data: Data = None,
    model: Annotated[
        Path | None, typer.Option(help="Model folder that it was compiled from, where the bundle holds no weights.")
    ] = None,
    windows: WindowCount = WINDOWS,
    hours: Hours = HOURS,
    report: ReportFile = None,
    threads: Threads = 1,
) -> None:
    """Hold every engine of a bundle against fp32 torch, and against the gate; exit code 2 if one fails."""
    table = WindowTable.open(data) if data is not None else None
    opened = open_bundle(bundle, UNSIGNED)  # whoever signed it: what is asked is what its engines do
    with compared(table, opened.manifest, windows=windows, hours=hours) as chosen:
        found = validate(opened, network_of(opened, model), chosen, threads=threads)
    _tell(found, report)
    if found.failed:
        raise ValueError(
            f"{', '.join(one.engine for one in found.failed)} of {bundle} may not be served; compile it again"
        )


def _tell(found: Validation, report: Path | None, seconds: Mapping[str, float] | None = None) -> None:
    for line in table_of(found, seconds):
        typer.echo(line)
    if report is not None:
        report.write_text(json.dumps(as_json(found, seconds), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _check(field: str, value: str) -> None:
    """Against the manifest's rule, before minutes of work."""
    rule = Manifest.model_fields[field]
    try:
        TypeAdapter(Annotated[str, rule]).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"--{field} {value!r}: {error.errors()[0]['msg']}") from error


def _limits(path: Path | None) -> ParityLimits:
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
