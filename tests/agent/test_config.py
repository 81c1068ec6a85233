"""The configuration: the reference is true, and every mistake is one sentence with the key and the remedy."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from agent.config import Config, ConfigError, _item, _submodel, load, reference
from agent.ops.docstrings import attribute_docstrings

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = "[sources.hl7]\nport = 2575\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "agent.toml"
    file.write_text(text, encoding="utf-8")
    return file


def settings(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        yield f"{path}{name}", attribute_docstrings(model)[name]
        if (sub := _submodel(field.annotation) or _item(field.annotation)) is not None:
            yield from settings(sub, f"{path}{name}.")


def test_the_reference_is_what_the_code_says() -> None:
    assert (ROOT / "deploy" / "agent.toml").read_text(encoding="utf-8") == reference(), (
        "run: deepecg-agent check-config --reference > deploy/agent.toml"
    )


def test_the_reference_can_be_used_and_shows_the_defaults() -> None:
    config = load(ROOT / "deploy" / "agent.toml")
    assert config.windows == Config().windows
    assert config.alerts == Config().alerts
    assert config.engine == Config().engine
    assert config.sources.hl7 is not None
    assert config.sources.mqtt is not None
    assert config.sources.mqtt.tls is None


@pytest.mark.parametrize(("key", "description"), list(settings(Config)))
def test_every_key_says_what_it_means(key: str, description: str) -> None:
    assert description, f"{key} has no docstring: deploy/agent.toml could not explain it"


def test_a_configuration_is_frozen(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        config.agent.log_level = "debug"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "[windows]\nstrides = 5\n", ["line 4", "windows.strides", "did you mean 'stride'"]),
        (MINIMAL + "[windows]\nzzz = 5\n", ["line 4", "windows.zzz", "known keys here: seconds, stride"]),
        (MINIMAL + "[station]\nport = 99999\n", ["line 4", "station.port", "65535", "99999"]),
        (MINIMAL + "[agent]\nlog_level = 'loud'\n", ["line 4", "agent.log_level", "'debug', 'info'", "'loud'"]),
        (MINIMAL + "[[models]]\nbundle = 'x'\nevrey = 5\n", ["line 5", "models.0.evrey", "did you mean 'every'"]),
        (MINIMAL + "[[models]]\nbundle = 'x'\n", ["models.0", "set every or once"]),
        (MINIMAL + "[[models]]\nonce = true\n", ["models.0.bundle is missing"]),
        (MINIMAL + "[serving]\nexpire_after = 1\n", ["serving", "expire_after must not be below answer_within"]),
        (MINIMAL + "[sinks.hl7]\nhost = 'a'\n", ["line 3", "sinks.hl7.port is missing"]),
        (MINIMAL + "[[sources.hl7.grants]]\nbeds = ['a/b/*']\n", ["sources.hl7.grants.0", "names no sender"]),
        (MINIMAL + "[station]\nhost = '0.0.0.0'\n", ["station", "allow_remote"]),
        (MINIMAL + "[sources.mqtt]\ntopics = ['ward/#']\n", ["sources.mqtt", "ward/#"]),
        (MINIMAL + "broken", ["not valid TOML"]),
        ("[agent]\nlog_level = 'info'\n", ["no feed", "[sources.mqtt]"]),
        ("[agnet]\n", ["line 1", "agnet", "did you mean 'agent'"]),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize(("text", "status"), [(MINIMAL, 0), (MINIMAL + "[windows]\nstrides = 5\n", 2)])
def test_the_command_says_the_same(tmp_path: Path, text: str, status: int) -> None:
    command = [sys.executable, "-m", "agent.cli", "check-config", str(write(tmp_path, text))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ)
    assert done.returncode == status, done.stderr
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_the_reference_is_toml_with_every_table() -> None:
    tables = tomllib.loads(reference())
    assert set(tables) == set(Config.model_fields) - {"models"}, "any number of those: they are to be uncommented"


def test_further_models_are_tables_of_their_own(tmp_path: Path) -> None:
    assert load(write(tmp_path, MINIMAL)).models == ()
    lines = reference().splitlines()
    first = lines.index("# [[models]]")
    shown = [line.removeprefix("# ") for line in lines[first : lines.index("", first)]]
    table = [line for line in shown if line.startswith("[[") or (" = " in line and "`" not in line)]
    text = "\n".join(table).replace("once = false", "once = true")
    config = load(write(tmp_path, f'{MINIMAL}{text}\nbundle = "lvef"\n[[models]]\nbundle = "ssl"\nevery = 60\n'))
    assert [(str(m.bundle), m.every, m.once) for m in config.models] == [("lvef", None, True), ("ssl", 60.0, False)]
    assert config.models[0].answer_within == 30.0
