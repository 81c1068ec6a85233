"""``deepecg-agent bundle``: which bundles this machine has, whose they are, and which of them is served."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from agent.config import AgentSettings, ConfigError, load
from agent.core.bundle.manifest import Engine, Manifest, schema
from agent.engines.base import EngineError
from agent.engines.bundles.archive import unpack
from agent.engines.bundles.bundle import Bundle, BundleError, open_bundle
from agent.engines.bundles.store import State, Store
from agent.engines.local.engines import ENGINES, DerivedEngine, read_derived
from agent.engines.local.record import Record, read_record, read_request, update_record
from agent.engines.machine import this_machine
from agent.engines.select import open_backend
from agent.engines.settings import EngineSettings
from agent.ops.docstrings import with_descriptions
from agent.ops.logs import configure_logging

StateDir = Annotated[
    Path | None, typer.Option("--state", help=f"The agent's state directory; default: {AgentSettings().state_dir}.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="The agent's TOML configuration: state directory and whom it trusts.")
]
Keys = Annotated[
    list[Path] | None,
    typer.Option("--key", help="File of a public key that this command trusts too; may be given again."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]
Which = Annotated[
    str, typer.Argument(help="NAME/VERSION-HASH, NAME/VERSION or NAME as listed; or a folder or archive.")
]


def list_(state: StateDir = None, config: ConfigFile = None, key: Keys = None, as_json: Json = False) -> None:
    """List the installed bundles, and which is served."""
    with sentences():
        store = store_of(state, config, key)
        now = store.state()
        rows = [
            {
                "bundle": one.key,
                "state": _state_of(one.key, now),
                "sha256": one.signed.sha256 if one.signed else "",
                "signer": one.signed.signer if one.signed else "",
                "problem": one.problem or (one.signed.warning if one.signed else ""),
            }
            for one in store.installed()
        ]
        if as_json:
            _print_json({"bundles": rows, **now.model_dump(mode="json")})
            return
        if rows:
            table = [(r["state"], r["bundle"], r["signer"] or "–", r["problem"]) for r in rows]
            typer.echo(_table(("", "BUNDLE", "SIGNED BY", ""), table))
        else:
            typer.echo(f"No bundle is installed in {store.state_dir}.")
        if store.settings.bundle is not None:
            typer.echo(f"The configuration names a folder, and that is served: {store.settings.bundle}")
        elif now.active is None:
            typer.echo("None was activated: the demonstration bundle that comes with the package is served.")


def show(
    bundle: Which = "",
    state: StateDir = None,
    config: ConfigFile = None,
    key: Keys = None,
    as_json: Json = False,
) -> None:
    """Tell all about a bundle, checked whole: what it is, whose, its engines, labels, training and change record."""
    with sentences():
        store = store_of(state, config, key)
        with _opened(store, bundle) as found:
            here = read_derived(store.state_dir, found.sha256, this_machine())
            if as_json:
                facts = {"sha256": found.sha256, "signer": found.signer, "warning": found.warning}
                engines = [engine.derived.model_dump(mode="json") for engine in here]
                _print_json({**facts, "manifest": found.manifest.model_dump(mode="json"), "derived": engines})
            else:
                typer.echo(_described(found, here))


def verify(
    bundle: Annotated[list[str] | None, typer.Argument(help="As for show; default: all that are installed.")] = None,
    state: StateDir = None,
    config: ConfigFile = None,
    key: Keys = None,
    as_json: Json = False,
) -> None:
    """Check signature, manifest and every byte of bundles; exit 2 if one is not good."""
    with sentences():
        store = store_of(state, config, key)
        rows: list[dict[str, str]] = []
        for name in bundle or [one.key for one in store.installed()] or [""]:
            try:
                with _opened(store, name) as found:
                    good = {"sha256": found.sha256, "signer": found.signer, "problem": found.warning}
                    rows.append({"bundle": name or found.manifest.model_id, "verdict": "good", **good})
            except BundleError as error:
                if len(bundle or ()) == 1 and not as_json:
                    raise
                rows.append({"bundle": name, "verdict": "bad", "sha256": "", "signer": "", "problem": str(error)})
        if as_json:
            _print_json(rows)
        else:
            table = [(r["verdict"], r["bundle"], r["signer"] or "–", r["problem"]) for r in rows]
            typer.echo(_table(("", "BUNDLE", "SIGNED BY", ""), table))
    if any(row["verdict"] == "bad" for row in rows):
        raise typer.Exit(2)


def install(
    source: Annotated[Path, typer.Argument(help="A bundle's folder, or a .tar or .tar.gz file of it.")],
    state: StateDir = None,
    config: ConfigFile = None,
    key: Keys = None,
    reason: Reason = "",
) -> None:
    """Check a bundle and copy it into the state directory; it is served once it is activated."""
    with sentences():
        found = store_of(state, config, key).install(source, reason)
        typer.echo(
            f"{found.path}: {found.manifest.model_id} is installed{_signed(found)}; "
            f"next: deepecg-agent bundle activate {found.manifest.model_id}"
        )


def activate(
    bundle: Annotated[str, typer.Argument(help="NAME/VERSION-HASH, NAME/VERSION or NAME as listed.")],
    state: StateDir = None,
    config: ConfigFile = None,
    key: Keys = None,
    reason: Reason = "",
    untested: Annotated[bool, typer.Option(help="Do not run its self-test on this machine first.")] = False,
) -> None:
    """Serve an installed bundle from the agent's next start on, if an engine of it passes its self-test here."""
    with sentences():
        folder, settings = settings_of(state, config, key)
        store, tested = Store(folder, settings), ""
        if not untested:
            with open_backend(store.open_installed(bundle), settings) as backend:
                tested = f", {backend.name} passed its self-test"
        found = store.activate(bundle, reason)
        typer.echo(f"{found.manifest.model_id} is active{_signed(found)}{tested}; restart the agent to serve it")


def rollback(state: StateDir = None, config: ConfigFile = None, key: Keys = None, reason: Reason = "") -> None:
    """Serve the bundle that was active before, from the agent's next start on."""
    with sentences():
        found = store_of(state, config, key).rollback(reason)
        typer.echo(f"{found.manifest.model_id} is active again{_signed(found)}; restart the agent to serve it")


def shadow(
    engine: Annotated[str, typer.Argument(help="Have this one tried (again) by the running agent.")] = "",
    state: StateDir = None,
    config: ConfigFile = None,
    key: Keys = None,
    as_json: Json = False,
) -> None:
    """Show how this machine's own engines do: on trial, watched, kept, rejected or rolled back, and why."""
    with sentences():
        store = store_of(state, config, key)
        folder = store.state_dir
        record, request = read_record(folder), read_request(folder)
        there = sorted(path.name for path in (folder / ENGINES).glob("[!.]*"))
        if engine:
            record = _retried(folder, record, engine, there)
        if as_json:
            asked = request.model_dump(mode="json") if request is not None else None
            _print_json({"engines": there, "requested": asked, **record.model_dump(mode="json")})
            return
        typer.echo(_trials(record, there))
        for one in request.wanted if request is not None else ():
            typer.echo(f"Asked for: {one.flavour}-{one.precision} for {one.model}, as {one.reason}.")
        for failure in record.failed:
            reason = failure.reason or f"started {failure.starts} times, and never ended"
            typer.echo(f"Not compiled: {failure.flavour}-{failure.precision} ({failure.time}): {reason}")


def schema_() -> None:
    """Print the manifest's JSON Schema."""
    _print_json(with_descriptions(schema(), Manifest))


@contextmanager
def sentences() -> Iterator[None]:
    """What a person can mend is one sentence on stderr and exit status 2."""
    configure_logging("error", "console")
    try:
        yield
    except (BundleError, ConfigError, EngineError) as error:
        typer.echo(f"deepecg-agent: {error}", err=True)
        raise typer.Exit(2) from error


def store_of(state: Path | None, config: Path | None, keys: Sequence[Path] | None) -> Store:
    """The store that the options mean; raises as `settings_of`."""
    folder, settings = settings_of(state, config, keys)
    return Store(folder, settings)


def settings_of(state: Path | None, config: Path | None, keys: Sequence[Path] | None) -> tuple[Path, EngineSettings]:
    """The state directory and the engine's settings that the options mean.

    Raises:
        ConfigError: they contradict each other, or the configuration cannot be used.
    """
    if config is not None and state is not None:
        raise ConfigError("give --state or --config, not both: the configuration names the state directory")
    if config is not None:
        loaded = load(config)
        folder, settings = loaded.agent.state_dir, loaded.engine
    else:
        folder, settings = state or AgentSettings().state_dir, EngineSettings()
    return folder, settings.model_copy(update={"trusted_keys": (*settings.trusted_keys, *(keys or ()))})


@contextmanager
def _opened(store: Store, which: str) -> Iterator[Bundle]:
    """An installed bundle, one in a folder or archive, or (where none is named) the one that is served."""
    path = Path(which)
    if not which:
        yield store.open()
    elif path.is_dir():
        yield open_bundle(path, store.trust())
    elif path.is_file():
        with TemporaryDirectory(prefix="deepecg-bundle-") as folder:
            unpacked = Path(folder) / path.name  # as the sentences call it
            unpacked.mkdir()
            yield open_bundle(unpack(path, unpacked), store.trust())
    else:
        yield store.open_installed(which)


def _retried(state_dir: Path, record: Record, engine: str, there: Sequence[str]) -> Record:
    """The record with that engine as if it were new."""
    tried = record.tried.get(engine)
    if engine not in there:
        raise BundleError(f"this machine has no engine called {engine}; it has: {', '.join(there) or 'none'}.")
    if tried is not None and not tried.is_over:
        raise BundleError(f"{engine} is on trial already ({tried.stage.value}, since {tried.since}).")
    if engine in {one.engine for one in record.serving.values()}:
        raise BundleError(f"{engine} serves already; there is nothing to try.")
    return update_record(state_dir, lambda current: current.with_canary(engine, None))


def _trials(record: Record, there: Sequence[str]) -> str:
    """A line for each engine of this machine's own."""
    if not there:
        return "This machine has compiled no engines; deepecg-agent rebuild does."
    serving = {one.engine for one in record.serving.values()}
    rows = []
    for name in there:
        tried = record.tried.get(name)
        if tried is None:
            rows.append(("", name, "new", "", "", "the running agent will try it"))
            continue
        f = tried.figures
        numbers = (
            f"{f['windows']:.0f} windows, shift {f['shift_p999']:.1e}, {f['flips']:.0f} flips, "
            f"{f['alerts_differ']:.0f} of {max(f['alerts_old'], f['alerts_new']):.0f} alerts differ, "
            f"{1e3 * f['median_new']:.1f} ms a window ({1e3 * f['median_old']:.1f})"
            if f
            else ""
        )
        rows.append(("*" if name in serving else "", name, tried.stage.value, tried.since, numbers, tried.reason))
    return _table(("", "ENGINE", "STAGE", "SINCE", "COMPARED", ""), rows) + (
        "\n* serves from the next start on, as it does now." if serving else ""
    )


def _state_of(key: str, state: State) -> str:
    if state.active is not None and key == state.active.key:
        return "active"
    return "previous" if state.previous is not None and key == state.previous.key else ""


def _signed(bundle: Bundle) -> str:
    return f", signed by key {bundle.signer}" if bundle.signer else " (not authenticated)"


def _described(bundle: Bundle, here: Sequence[DerivedEngine]) -> str:
    m = bundle.manifest
    p = m.input.preprocessing
    leads = ", ".join(lead.value for lead in m.input.required_leads)
    lines = [
        f"{m.model_id}  {m.architecture}",
        m.statement,
        "",
        f"manifest   {bundle.sha256}",
        f"signed by  {bundle.signer or 'nobody that is trusted: ' + bundle.warning}",
        f"weights    {m.weights_sha256}",
        f"input      {p.rate:g} Hz, {p.seconds:g} s, {p.mode} preprocessing; needs lead {leads or 'any'}",
        f"files      {len(m.files)}, {sum(entry.size for entry in m.files.values()) / 1e6:.1f} MB",
        f"sources    {', '.join(m.source.files) if m.source is not None else 'none: nothing can be compiled from it'}",
        "",
        _table(
            ("ENGINE", "PRECISION", "COMPILED BY", "FOR", "BATCHES", "LARGEST SHIFT", "WHERE"),
            [
                *(_engine_row(engine, "bundle") for engine in m.engines),
                *(_engine_row(one.derived.engine, f"here, {one.derived.created}") for one in here),
            ],
        ),
        "",
        _table(
            ("LABEL", "SEVERITY", "AUROC (95 %)", "ALERTS FROM"),
            [
                (
                    label.name,
                    label.severity,
                    f"{e.auroc:.3f} ({e.lower:.3f}–{e.upper:.3f})",
                    f"{label.rule.threshold:g} in {label.rule.open_after} windows" if label.rule is not None else "–",
                )
                for label in m.labels
                if (e := label.evidence) is not None
            ],
        ),
        f"{sum(label.evidence is None for label in m.labels)} further labels have no evidence and are not shown.",
        "",
        f"trained    {m.training.patients} patients, {m.training.windows} windows; {m.training.summary}",
        *(f"           {name}: {text}" for name, text in m.training.datasets.items()),
        f"change     {m.change.what}",
        f"tested     {m.change.how_tested}",
        f"impact     {m.change.impact}",
    ]
    return "\n".join(_printable(line) for text in lines for line in text.split("\n"))


def _engine_row(engine: Engine, where: str) -> tuple[str, ...]:
    target = engine.target
    words = (target.kind, target.gpu, target.compute_capability, *target.cpu_features)
    shift = engine.parity.probability_max
    return (
        engine.flavour,
        engine.precision,
        engine.library,
        " ".join(word for word in words if word),
        " ".join(map(str, engine.batches)) or "any",
        "not measured" if shift is None else f"{shift:.1e}",
        where,
    )


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as they have to be; the last is left ragged."""
    cells = [header, *([_printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join("  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _printable(text: str) -> str:
    """A text of a bundle may not steer the terminal, not even where no signature is required."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
