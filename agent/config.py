"""One TOML file becomes one frozen tree of settings.

Each room defines its own settings beside its code; here they are composed, loaded, and written out again as the
commented reference ``deploy/agent.toml``. An unknown key or a bad value is one sentence that names the key, the line
and the remedy.
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
import tomllib
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from agent.core.alerting.settings import AlertingSettings
from agent.core.canary import RolloutSettings
from agent.core.errors import DeepECGError
from agent.core.windows.settings import WindowingSettings
from agent.engines.serving.settings import ModelSettings, ServingSettings
from agent.engines.settings import EngineSettings
from agent.ops.docstrings import attribute_docstrings
from agent.sinks.settings import Hl7SinkSettings, MqttSinkSettings, OutboxSettings
from agent.sources.hl7.settings import HL7SourceSettings
from agent.sources.mqtt_settings import MqttSourceSettings
from agent.station.settings import StationSettings


class ConfigError(DeepECGError):
    """The configuration cannot be used; the message is one sentence with the remedy."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AgentSettings(_Settings):
    """The process itself."""

    state_dir: Path = Path("/var/lib/deepecg")
    """Where the outbox and the engine's cache live. Under systemd: StateDirectory."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    log_format: Literal["json", "console"] = "json"
    """json: one object a line, for the journal; console: for a person at a terminal."""


class SourcesSettings(_Settings):
    """Feeds in. Leave a table out and that transport is off."""

    mqtt: MqttSourceSettings | None = None
    """Monitors and gateways that publish over MQTT."""
    hl7: HL7SourceSettings | None = None
    """Monitors and gateways that send HL7 v2 over MLLP, and the hospital's ADT."""


class SinksSettings(_Settings):
    """Alerts out. Leave a table out and nothing goes that way; an alert waits in the outbox for every table here."""

    hl7: Hl7SinkSettings | None = None
    """IHE PCD-04 alerts (ORU^R40) over MLLP, acknowledged by the receiver."""
    mqtt: MqttSinkSettings | None = None
    """Alerts as JSON over MQTT at QoS 1."""


class Config(_Settings):
    """Everything that the agent can be told."""

    agent: AgentSettings = Field(default_factory=AgentSettings)
    """The process itself."""
    sources: SourcesSettings = Field(default_factory=SourcesSettings)
    """Feeds in. Leave a table out and that transport is off."""
    windows: WindowingSettings = Field(default_factory=WindowingSettings)
    """How a bed's samples become windows."""
    engine: EngineSettings = Field(default_factory=EngineSettings)
    """How windows are batched and run through the network."""
    serving: ServingSettings = Field(default_factory=ServingSettings)
    """How long windows may wait for it."""
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)
    """How an engine that this machine compiled for itself (`deepecg-agent rebuild`) comes to serve."""
    models: tuple[ModelSettings, ...] = ()
    """Further models beside that of [engine], each a table of its own. What they say is shown on the page and in
    /api/state, and goes nowhere else; alerts come from the first model, and from those that are told to alert."""
    alerts: AlertingSettings = Field(default_factory=AlertingSettings)
    """How predictions become alerts. Thresholds and persistence come with the bundle."""
    outbox: OutboxSettings = Field(default_factory=OutboxSettings)
    """Where alerts are kept until every sink has delivered them."""
    sinks: SinksSettings = Field(default_factory=SinksSettings)
    """Alerts out. Leave a table out and nothing goes that way."""
    station: StationSettings = Field(default_factory=StationSettings)
    """The live page, /metrics and /healthz."""


def load(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: one sentence; the caller prints it and exits with status 2.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); name a readable UTF-8 TOML file") from error
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}; deploy/agent.toml shows every key") from error
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_sentence(error.errors()[0], text)}") from error
    if config.sources.mqtt is None and config.sources.hl7 is None:
        raise ConfigError(f"{path}: no feed is configured; add a [sources.mqtt] or a [sources.hl7] table")
    return config


def reference() -> str:
    """The commented reference: every key with its meaning and default. ``deploy/agent.toml`` is this text."""
    head = """\
        DeepECG Bedside: the agent's configuration, every key with its default.
        Advisory only: not a medical device, never the primary alarm.

        Check a file with   deepecg-agent check-config FILE
        Secrets are never written here: give the path of a file that holds them.
        """
    lines = [f"# {line}".rstrip() for line in textwrap.dedent(head).splitlines()]
    return "\n".join([*lines, *_tables(Config, ())]) + "\n"


def _tables(model: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """The TOML lines of one settings model: its values first, then its sub-tables."""
    values: list[str] = []
    tables: list[str] = []
    meanings = attribute_docstrings(model)
    for name, field in model.model_fields.items():
        comment = [f"# {line}" for line in textwrap.wrap(meanings[name], 116)]
        sub = _submodel(field.annotation)
        default = field.get_default(call_default_factory=True)  # type: ignore[call-overload,unused-ignore]
        if not path and (item := _item(field.annotation)) is not None:  # any number of tables: one to be uncommented
            _, *lines = _tables(item, (*path, name))
            lines = [f"[[{name}]]", *lines]
            tables += ["", *comment, *(line if line.startswith("#") else f"# {line}" for line in lines)]
        elif sub is not None:
            lines = _tables(sub, (*path, name))
            if default is None and len(path) > 1:  # optional (TLS): there to be uncommented
                lines = [line if line.startswith("#") or not line else f"# {line}" for line in lines]
            tables += ["", *comment, *lines]
        elif default is None or default is PydanticUndefined:
            example = f"{name} = {_toml(field.examples[0])}" if field.examples else f"# {name} ="
            values += [*comment, example]
        else:
            values += [*comment, f"{name} = {_toml(default)}"]
    header = [f"[{'.'.join(path)}]"] if values else []
    return [*header, *values, *tables]


def _submodel(annotation: Any) -> type[BaseModel] | None:
    """The settings model behind ``X`` or ``X | None``; None for plain values and lists."""
    for candidate in get_args(annotation) if get_origin(annotation) in (types.UnionType, Union) else (annotation,):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _item(annotation: Any) -> type[BaseModel] | None:
    """The settings model behind ``tuple[X, ...]``."""
    return _submodel(get_args(annotation)[0]) if get_origin(annotation) is tuple else None


def _toml(value: Any) -> str:
    """A default as TOML."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple | set | frozenset):
        one_line = "[" + ", ".join(_toml(v) for v in value) + "]"
        return one_line if len(one_line) < 100 else "[\n" + "".join(f"  {_toml(v)},\n" for v in value) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)


def _sentence(error: ErrorDetails, text: str) -> str:
    """One validation error as one sentence: where, what, remedy."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    where = f"line {line}: " if (line := _line(location, text)) else ""
    if error["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        near = difflib.get_close_matches(location[-1], known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
        return f"{where}{key} is not a known key; {hint}"
    if error["type"] == "missing":
        return f"{where}{key} is missing; add it (deploy/agent.toml shows every key)"
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    given = f" (given: {error['input']!r})" if not isinstance(error["input"], dict | list) else ""
    return f"{where}{key}: {message[0].lower()}{message[1:]}{given}; correct it (deploy/agent.toml shows every key)"


def _keys_at(location: list[str]) -> list[str]:
    """The keys of the settings model at a dotted path; list indices are stepped over."""
    model: type[BaseModel] | None = Config
    for part in location:
        if model is None or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        model = _submodel(annotation) or next((m for m in map(_submodel, get_args(annotation)) if m), None)
    return list(model.model_fields) if model else []


def _line(location: list[str], text: str) -> int | None:
    """The line on which a key stands, or the table that lacks it: the longest part of the path that is found."""
    named = [part for part in location if not part.isdigit()]
    table: list[str] = []
    best, depth = None, 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line):
            here = table = header[1].split(".")
        elif assigned := re.match(r'\s*([\w."-]+)\s*=', line):
            here = [*table, *assigned[1].replace('"', "").split(".")]
        else:
            continue
        if len(here) > depth and here == named[: len(here)]:
            best, depth = number, len(here)
    return best
