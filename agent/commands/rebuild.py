"""``deepecg-agent rebuild``: compile engines for this machine from the bundles that it serves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.commands.bundle import ConfigFile, Json, Keys, StateDir, sentences, settings_of
from agent.config import load
from agent.core.bundle.derived import Machine
from agent.core.bundle.manifest import Flavour, Precision
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import Bundle, BundleError
from agent.engines.bundles.files import owned
from agent.engines.bundles.store import Store
from agent.engines.local.rebuild import Rebuilt, cannot, fingerprint, fitting, presumed, rebuild, worth_it
from agent.engines.local.record import REQUEST, Wanted, read_record, read_request
from agent.engines.machine import this_machine
from agent.engines.settings import EngineSettings


def rebuild_(
    state: StateDir = None,
    config: ConfigFile = None,
    key: Keys = None,
    flavour: Annotated[Flavour | None, typer.Option(help="Compile this, whether it is worth it or not.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="And in this precision.")] = None,
    model: Annotated[str, typer.Option(help="Of this model (its bundle's name); default: all, or the first.")] = "",
    requested: Annotated[bool, typer.Option(help="Compile what the agent has asked for, if anything.")] = False,
    as_json: Json = False,
) -> None:
    """Compile engines for this machine from the ONNX or IR in the signed bundle, where the bundle's own do not fit.

    Each is held against the bundle's golden windows and gate, signed by this machine's key and kept in the state
    directory. The running agent finds it there and tries it beside the engine that serves.
    """
    with sentences():
        state_dir, settings = settings_of(state, config, key)
        owned(state_dir)
        work = _Work(state_dir, settings, _bundles(Store(state_dir, settings), config), this_machine())
        if requested:
            done, problems = work.requested()
        else:
            done, problems = work.all(
                work.named(model, flavour, precision) if flavour or precision else work.worth(model)
            )
        if as_json:
            typer.echo(json.dumps({"engines": [_facts(one) for one in done], "problems": problems}, indent=1))
        for one in () if as_json else done:
            typer.echo(_described(one))
        for problem in () if as_json else problems:
            typer.echo(f"deepecg-agent: {problem}", err=True)
        if not done and not problems and not as_json:
            typer.echo(work.idle())
    if problems:
        raise typer.Exit(2)


class _Work:
    """What there is to compile, and from what."""

    def __init__(self, state_dir: Path, settings: EngineSettings, bundles: Sequence[Bundle], machine: Machine) -> None:
        self._state_dir = state_dir
        self._settings = settings
        self._bundles = {bundle.sha256: bundle for bundle in bundles}
        self._machine = machine

    def worth(self, model: str) -> list[Wanted]:
        """What would serve better than what there is, for each bundle the best first."""
        found: list[Wanted] = []
        for bundle in self._bundles.values() if not model else [self._bundle(model)]:
            record, mine = fitting(self._state_dir, bundle, self._machine)
            known = record.model_copy(update={"failed": ()})  # whoever asks by hand has a reason to try again
            serving, skipped = presumed(bundle, self._machine, record, mine)
            found += worth_it(bundle, self._machine, known, mine, serving, skipped)
        return found

    def named(self, model: str, flavour: Flavour | None, precision: Precision | None) -> list[Wanted]:
        """What the command line asks for."""
        bundle = self._bundle(model)
        flavour = flavour or "openvino"
        offered = next((e.precision for e in bundle.manifest.engines if e.flavour == flavour), "f32")
        return [
            Wanted(
                parent=bundle.sha256,
                model=bundle.manifest.model_id,
                flavour=flavour,
                precision=precision or offered,
                reason="somebody wants it",
            )
        ]

    def requested(self) -> tuple[list[Rebuilt], list[str]]:
        """What the agent asks for, but for what has failed here before. Afterwards nothing is asked for any more."""
        try:
            request = read_request(self._state_dir)
            failed, machine = read_record(self._state_dir).failed, fingerprint(self._machine)
            return self.all(
                [
                    w
                    for w in (request.wanted if request is not None else ())
                    if w.parent in self._bundles
                    and not any(f.is_of(w.parent, w.flavour, w.precision, machine) and f.is_final for f in failed)
                ]
            )
        finally:
            (self._state_dir / REQUEST).unlink(missing_ok=True)

    def all(self, wanted: Sequence[Wanted]) -> tuple[list[Rebuilt], list[str]]:
        """Compile for each bundle the first that can be; what was compiled, and what went wrong with the others."""
        done: dict[str, Rebuilt] = {}
        problems: list[str] = []
        for one in wanted:
            if one.parent in done:
                continue
            typer.echo(f"{one.flavour}-{one.precision} for {one.model}: {one.reason}", err=True)
            try:
                done[one.parent] = rebuild(
                    self._bundles[one.parent],
                    one.flavour,
                    one.precision,
                    self._state_dir,
                    self._settings,
                    self._machine,
                    _Phases(),
                )
            except (EngineError, BundleError) as error:
                problems.append(str(error))
        return list(done.values()), problems

    def idle(self) -> str:
        """Why there was nothing to do."""
        lines = ["Nothing is to be compiled: no engine that this machine could have is better than what it has."]
        for bundle in self._bundles.values():
            for e in bundle.manifest.engines:
                if reason := cannot(bundle.manifest, self._machine, e.flavour, e.precision):
                    lines.append(f"{e.flavour}-{e.precision} for {bundle.manifest.model_id}: {reason}.")
        return "\n".join(lines)

    def _bundle(self, model: str) -> Bundle:
        """A bundle by its name; the first, where none is named."""
        for bundle in self._bundles.values():
            if model in {"", bundle.manifest.name, bundle.manifest.model_id}:
                return bundle
        raise BundleError(
            f"no model that is served here is called {model}; there is "
            f"{', '.join(bundle.manifest.name for bundle in self._bundles.values())}."
        )


class _Phases:
    """Tells a person where the compiler is: each phase once."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, phase: str, share: float) -> None:
        del share
        if phase != self._last:
            self._last = phase
            typer.echo(f"  {phase}", err=True)


def _bundles(store: Store, config: Path | None) -> list[Bundle]:
    """The first model's, and those of the configuration's further models that can be used."""
    found = [store.open()]
    for settings in load(config).models if config is not None else ():
        of_model = Store(store.state_dir, store.settings.model_copy(update={"bundle": settings.bundle}))
        try:
            found.append(of_model.open())
        except BundleError as error:
            typer.echo(f"deepecg-agent: {error}", err=True)
    return found


def _facts(one: Rebuilt) -> dict[str, Any]:
    derived = one.engine.derived
    return {
        "name": one.engine.path.name,
        "seconds": round(one.seconds, 2),
        "bytes": one.size,
        **derived.model_dump(mode="json", include={"parent", "engine", "machine", "builder", "created"}),
    }


def _described(one: Rebuilt) -> str:
    entry = one.engine.derived.engine
    parity = entry.parity
    return (
        f"{one.engine.path}: {entry.library}, compiled in {one.seconds:.1f} s, {one.size / 1e6:.1f} MB; largest "
        f"difference {parity.probability_max or 0.0:.1e} over {parity.windows} golden windows, {parity.flips or 0} "
        "on another side of a threshold. The running agent tries it; deepecg-agent bundle shadow shows how it goes."
    )
