"""Every example in the documents runs, and shows what it should. They are read from the documents themselves."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from numpy.testing import assert_allclose

from agent.commands.send import Feed
from agent.commands.send import run as send
from agent.config import Config, load
from agent.core.alerting.alerting import Alerting
from agent.core.beats.rate import heart_rate
from agent.core.bundle.manifest import Manifest
from agent.core.ecg import (
    LEADS,
    Alert,
    Encounter,
    EncounterChange,
    EncounterEvent,
    Event,
    Lead,
    Prediction,
    Provenance,
    Samples,
    Window,
)
from agent.core.hl7.acknowledgement import acknowledge, answers
from agent.core.hl7.alert import Hl7AlertSettings
from agent.core.hl7.alert import message_from_alert as hl7_from_alert
from agent.core.hl7.decode import Decoded, decode, refuse
from agent.core.hl7.dialect import Dialect
from agent.core.hl7.message import HL7Error
from agent.core.hl7.patient import BedMap
from agent.core.mqtt.decode import decode as mqtt_decode
from agent.core.mqtt.document import JSON_TYPE
from agent.core.mqtt.topic import TopicTemplate
from agent.engines.bundles.bundle import default_bundle
from agent.mqtt.link import BrokerSettings, Message, MqttLink, PublishRefusedError
from agent.ops.metrics import Metrics
from agent.sinks.mqtt import message_from_alert as json_from_alert
from agent.sources.hl7.server import HL7Source
from agent.sources.hl7.settings import HL7SourceSettings, load_dialects
from agent.sources.mqtt import MqttSource
from agent.sources.mqtt_settings import MqttSourceSettings

Example = Callable[[str, str], str]

TOPIC = "ward/v1/north/icu/7/ecg/monitor-1"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
ANSWERED = NOON + 1.05
"""When the acknowledgements of the examples were made."""

KNOWN = {
    ("json", "alert.json"),
    ("json", "block.json"),
    ("json", "offset-binary.json"),
    ("json", "status.json"),
    ("json", "send.json"),
    ("python", "send_ecg.py"),
    ("python", "send_json.py"),
    ("python", "cbor_block.py"),
    ("python", "send_hl7.py"),
    ("toml", "acme.toml"),
    ("text", "waveform.hl7"),
    ("text", "acknowledgement.hl7"),
    ("text", "refusal.hl7"),
    ("text", "discharge.hl7"),
    ("text", "alert.hl7"),
    ("text", "acme.hl7"),
    ("text", "acme-refused.hl7"),
    ("text", "acme-accepted.hl7"),
    ("text", "/etc/mosquitto/conf.d/ward.conf"),
    ("text", "/etc/mosquitto/acl"),
}
"""What has a test below; configurations of the agent and shell blocks are tested by their kind."""


def test_every_example_has_a_test(all_blocks: list[Any]) -> None:
    """An example of an unknown kind would be one that nobody holds to the code."""
    unknown = [
        str(block)
        for block in all_blocks
        if block.document.startswith(("docs/", "README"))
        and not (block.language == "sh" or (block.language, block.title) in KNOWN)
        and not block.is_configuration
    ]
    assert not unknown
    assert not KNOWN - {(block.language, block.title) for block in all_blocks}


def test_every_configuration_can_be_used(configuration: Any, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(configuration.text, encoding="utf-8")
    assert isinstance(load(file), Config)


def test_a_key_that_is_named_as_a_key_is_one(all_blocks: list[Any], root: Path) -> None:
    """Tables in the prose, as ``[sources.mqtt]``: each is in the reference."""
    reference = tomllib.loads(
        re.sub(r"^# (\[.*\])$", r"\1", (root / "deploy" / "agent.toml").read_text(encoding="utf-8"), flags=re.M)
    )
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        for name in re.findall(r"`\[([a-z0-9_.]+)\]", path.read_text(encoding="utf-8")):
            table = reference
            for part in name.split("."):
                assert part in table, f"{path.name}: there is no table [{name}]"
                table = table[part]


# ---- ECG over MQTT -----------------------------------------------------------------------------------------------


def taken(payload: bytes, content_type: str = "") -> Samples:
    return mqtt_decode(TOPIC, payload, content_type, TopicTemplate(), 0.0)


def script(text: str) -> dict[str, Any]:
    """The names that a Python example defines, without its ``main``."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, "example.py", "exec"), names)
    return names


def test_the_binary_sender_shows_sixty_beats_a_minute(example: Example) -> None:
    """Ten of its blocks through the agent's source, and the rate that the page would show."""
    sender = script(example("docs/mqtt.md", "send_ecg.py"))
    source = MqttSource(MqttSourceSettings(), Metrics())
    blocks = []
    for phase in (0.0, 0.31, 0.77):
        for n in range(10):
            start = 1_800_000_000 + phase + n
            payload = sender["block"](start, n, *sender["second"](start))
            message = Message(
                topic=TOPIC,
                payload=payload,
                qos=1,
                retain=False,
                duplicate=False,
                content_type="application/vnd.deepecg.block",
                received=0.0,
                connection=1,
                mid=n + 1,
            )
            blocks.append(source.take(message))
        taken = [block for block in blocks[-10:] if block is not None]
        assert len(taken) == 10, "each block is taken, none as one that came before"
        assert [channel.lead for channel in taken[0].channels] == [Lead.II, None]
        assert [channel.rate for channel in taken[0].channels] == [500.0, 250.0]
        assert taken[0].start == pytest.approx(1_800_000_000 + phase, abs=1e-5)
        assert heart_rate(np.concatenate([block.values[0] for block in taken]), 500.0) == pytest.approx(60, abs=2)


async def _first_from(mosquitto: int, file: Path) -> Samples:
    """What the agent gets first from a script that is run as the documents say."""
    queue: asyncio.Queue[Event] = asyncio.Queue()
    settings = MqttSourceSettings(host="127.0.0.1", port=mosquitto)
    async with MqttSource(settings, Metrics()) as source:
        await source.subscribed.wait()
        task = asyncio.create_task(source.run(queue))
        process = await asyncio.create_subprocess_exec(sys.executable, str(file), "127.0.0.1", str(mosquitto))
        try:
            block = await asyncio.wait_for(queue.get(), 60)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            task.cancel()
    assert isinstance(block, Samples)
    return block


async def test_the_binary_sender_runs(example: Example, mosquitto: int, tmp_path: Path) -> None:
    file = tmp_path / "send_ecg.py"
    file.write_text(example("docs/mqtt.md", "send_ecg.py"))
    block = await _first_from(mosquitto, file)
    assert (block.bed, block.device, block.sequence) == ("north/icu/7", "monitor-1", 0)
    assert block.channels[0].filter_label == "0.5-40 Hz"
    assert len(block.values[0]) == 500
    assert np.nanmax(block.values[0]) == pytest.approx(1.0, abs=0.005)


async def test_the_json_sender_runs(example: Example, mosquitto: int, tmp_path: Path) -> None:
    file = tmp_path / "send_json.py"
    file.write_text(example("docs/mqtt.md", "send_json.py"))
    block = await _first_from(mosquitto, file)
    assert block.channels[0].lead is Lead.II
    assert_allclose(block.values[0][:4], [0.0, 0.012, np.nan, 0.9], atol=1e-6)


def test_json(example: Example) -> None:
    block = taken(example("docs/mqtt.md", "block.json").encode(), JSON_TYPE)
    assert [(c.label, c.lead, c.unit, c.rate) for c in block.channels] == [
        ("I", Lead.I, "mV", 250.0),
        ("II", Lead.II, "mV", 250.0),
        ("Pleth", None, "1", 250.0),
    ]
    assert_allclose(block.values[0], [0.008, 0.010, np.nan], atol=1e-6)
    assert_allclose(block.values[2], [0.51, 0.52, 0.53], atol=1e-6)
    assert block.start == NOON + 0.25
    assert (block.sequence, block.paced) == (42, False)
    assert block.encounter is not None
    assert block.encounter.patient_ids == ("4711^^^NORTH^MR",)
    assert block.channels[0].filter_label == "0.5-40 Hz"


def test_cbor(example: Example) -> None:
    block = taken(script(example("docs/mqtt.md", "cbor_block.py"))["payload"])
    assert_allclose(block.values[0][:4], [0.0, 0.012, np.nan, 0.9], atol=1e-6)


def test_offset_binary(example: Example) -> None:
    block = taken(example("docs/mqtt.md", "offset-binary.json").encode())
    assert block.channels[0].lead is Lead.II
    assert_allclose(block.values[0], [0.0, 0.012, 1.0005], atol=1e-6)
    assert block.start == NOON + 0.25


async def test_the_agents_state(example: Example, mosquitto: int) -> None:
    watcher = BrokerSettings(host="127.0.0.1", port=mosquitto, client_id="watcher", status_topic="")
    async with MqttLink(watcher, Metrics(), "t", [("ward/v1/agent/+/status", 1)]) as link:
        await link.subscribed.wait()
        async with MqttSource(MqttSourceSettings(host="127.0.0.1", port=mosquitto), Metrics()):
            message = await asyncio.wait_for(link.get(), 20)
    assert message.topic == "ward/v1/agent/deepecg-source/status"
    assert json.loads(message.payload) == json.loads(example("docs/mqtt.md", "status.json"))


# ---- HL7 ---------------------------------------------------------------------------------------------------------


def message_of(text: str) -> bytes:
    return text.replace("\n", "\r").encode()


def decoded(text: str, extra: tuple[Dialect, ...] = ()) -> Decoded:
    return decode(message_of(text), (*load_dialects(), *extra), 0.0, beds=BedMap(), zone=ZoneInfo("UTC"), dialect=None)


def answer_to(message: Decoded, control_id: str = "DEB1") -> str:
    (code,) = answers(message.header, message.verdict)
    answer = acknowledge(message.header, code, control_id=control_id, created=ANSWERED, errors=message.errors)
    return answer.decode().replace("\r", "\n")


def test_the_waveform_message_and_its_answers(example: Example) -> None:
    found = decoded(example("docs/hl7.md", "waveform.hl7"))
    (block,) = found.events
    assert isinstance(block, Samples)
    assert found.dialect == "ihe"
    assert (block.bed, block.start) == ("north/icu/7", NOON)
    assert [(c.lead, c.rate, c.unit) for c in block.channels] == [(Lead.II, 250.0, "mV"), (Lead.V1, 250.0, "mV")]
    assert [len(values) for values in block.values] == [50, 50]
    assert block.values[0].max() == pytest.approx(1.293)
    assert block.encounter is not None
    assert (block.encounter.patient_ids, block.encounter.family_name) == (("4711^^^NORTH^MR",), "DOE")
    assert answer_to(found) == example("docs/hl7.md", "acknowledgement.hl7")
    text = "this sender may not speak for this bed; add it to `grants`"
    refused = refuse(found, HL7Error("not_granted", text, code=207, location="MSH^1^3", reject=True))
    assert answer_to(refused, "DEB2") == example("docs/hl7.md", "refusal.hl7")


def test_the_discharge(example: Example) -> None:
    (change,) = decoded(example("docs/hl7.md", "discharge.hl7")).events
    assert isinstance(change, EncounterChange)
    assert (change.event, change.bed) == (EncounterEvent.DISCHARGE, "north/icu/7")


async def test_one_message_by_hand(example: Example, tmp_path: Path) -> None:
    """``send_hl7.py`` against a real port, and the refusal of a sender without a grant."""
    (tmp_path / "send_hl7.py").write_text(example("docs/hl7.md", "send_hl7.py"))
    (tmp_path / "waveform.hl7").write_text(example("docs/hl7.md", "waveform.hl7"))
    for grants, title in ((["*"], "acknowledgement.hl7"), (["south/*"], "refusal.hl7")):
        settings = {"port": 0, "grants": [{"address": "127.0.0.0/8", "beds": grants}]}
        async with HL7Source(HL7SourceSettings.model_validate(settings), Metrics()) as source:
            task = asyncio.create_task(source.run(asyncio.Queue()))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "send_hl7.py", "waveform.hl7", "127.0.0.1", str(source.port)),
                cwd=tmp_path,
                stdout=subprocess.PIPE,
            )
            out, _ = await process.communicate()
            task.cancel()
        shown = example("docs/hl7.md", title)
        assert without_ids(out.decode().strip()) == without_ids(shown.strip())


def without_ids(text: str) -> str:
    """An acknowledgement without its own time and number."""
    return re.sub(r"(?<=\|)(\d{14}\.\d{3}\+0000|DEB\w+)(?=\|)", "", text)


def test_the_dialect_is_refused_without_its_file_and_taken_with_it(example: Example) -> None:
    page = "docs/tutorial-add-a-dialect.md"
    message = example(page, "acme.hl7")
    dialect = Dialect.model_validate(tomllib.loads(example(page, "acme.toml")))
    assert answer_to(decoded(message)) == example(page, "acme-refused.hl7")
    found = decoded(message, (dialect,))
    assert answer_to(found) == example(page, "acme-accepted.hl7")
    (block,) = found.events
    assert isinstance(block, Samples)
    assert (found.dialect, block.bed, block.channels[0].lead, block.channels[0].rate) == (
        "acme",
        "north/icu/7",
        Lead.II,
        250.0,
    )
    assert_allclose(block.values[0][:5], [0.01, 0.005, -0.005, np.nan, 0.0125], atol=1e-6)


# ---- alerts out --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alert() -> Alert:
    """What the agent says when the shipped network's answer is the page's, five windows in a row."""
    manifest = Manifest.model_validate_json((default_bundle() / "manifest.json").read_bytes())
    alerting = Alerting(manifest)
    probabilities = np.full(len(manifest.labels), 0.01, np.float32)
    probabilities[[label.name for label in manifest.labels].index("Afib")] = 0.9873
    patient = Encounter(("4711^^^NORTH^MR",), "DOE", "JANE", visit="V123", location="icu^^7^north")
    alerts: list[Alert] = []
    for n in range(5):
        window = Window(
            bed="north/icu/7",
            device="monitor-1",
            generation=0,
            start=NOON + 5 * n,
            end=NOON + 5 * n + 10,
            rate=250.0,
            samples=np.zeros((12, 2500), np.float32),
            provenance=(Provenance.MEASURED,) * len(LEADS),
            received=1000.0 + 5 * n,
            encounter=patient,
        )
        prediction = Prediction(window, manifest.model_id, "openvino-f32", probabilities, window.received + 0.1)
        alerts += alerting.on_prediction(prediction, window.end + 0.412, 0)
    (started,) = alerts
    return started


UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def test_the_alert_as_json(example: Example, alert: Alert) -> None:
    shown, made = json.loads(example("docs/alerts.md", "alert.json")), json.loads(json_from_alert(alert))
    assert list(shown) == list(made), "the same fields in the same order"
    for field, value in made.items():
        if field in {"alert_id", "message_id"}:
            assert UUID.fullmatch(shown[field])
            assert UUID.fullmatch(value)
        else:
            assert shown[field] == value, field


def test_the_alerts_fields_are_all_explained(root: Path, alert: Alert) -> None:
    page = (root / "docs" / "alerts.md").read_text(encoding="utf-8")
    first_column = "".join(re.findall(r"^\| (`[^|]*) \|", page, re.M))
    assert set(re.findall(r"`(\w+)`", first_column)) >= set(json.loads(json_from_alert(alert)))


def test_the_alert_as_hl7(example: Example, alert: Alert) -> None:
    made = hl7_from_alert(alert, Hl7AlertSettings()).decode().replace("\r", "\n")
    assert UUID.sub("id", example("docs/hl7.md", "alert.hl7")) == UUID.sub("id", made)


# ---- the rest ----------------------------------------------------------------------------------------------------


def test_the_metrics_that_are_named_are_there(root: Path) -> None:
    there = set(re.findall(r"^# TYPE (\w+) ", Metrics().render().decode(), re.M))
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        for name in re.findall(r"`(deepecg_[a-z_]+)", path.read_text(encoding="utf-8")):
            assert name in there | {"deepecg_"}, f"{path.name}: there is no metric {name}"


def test_what_the_agent_is_said_to_answer_it_does(root: Path) -> None:
    """The sentences of the tutorial's table stand in the code that says them."""
    page = (root / "docs" / "tutorial-connect-a-monitor.md").read_text(encoding="utf-8")
    table = page.partition("| the answer says | do |")[2].partition("\n\n")[0]
    said = re.findall(r"^\| `([^`]+)`", table, re.M)
    code = "".join(path.read_text(encoding="utf-8") for path in (root / "agent").glob("**/hl7*/*.py"))
    code += "".join(path.read_text(encoding="utf-8") for path in (root / "agent").glob("**/hl7*.py"))
    assert len(said) == 4
    assert [sentence for sentence in said if sentence not in code.replace("`", "")] == []


def test_the_readme_is_a_front_door(root: Path) -> None:
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) <= 200, "what is longer goes to docs/"


async def test_the_summary_of_a_test_feed(example: Example) -> None:
    """It has the fields that `send` prints; what they say is tested with the command."""
    shown = json.loads(example("docs/tutorial-first-ward.md", "send.json"))
    settings = HL7SourceSettings.model_validate({"port": 0})
    async with HL7Source(settings, Metrics()) as source:
        task = asyncio.create_task(source.run(asyncio.Queue()))
        config = Config.model_validate({"sources": {"hl7": {"port": source.port}}, "station": {"port": source.port}})
        made = await send(config, Feed(shown["bed"], "hl7", seconds=1, anyway=True))
        task.cancel()
    assert list(made) == list(shown)
    assert made["over"] == shown["over"]
    assert shown["messages"] == shown["accepted"] == 60


async def test_the_brokers_access_list(
    example: Example, tool: Callable[[str], str], free_port: int, tmp_path: Path
) -> None:
    """A monitor may write to its own topic and no other; the agent reads it."""
    page = "docs/tutorial-connect-a-monitor.md"
    (tmp_path / "acl").write_text(example(page, "/etc/mosquitto/acl"))
    for user, password in (("monitor-7", "SECRET"), ("deepecg", "ANOTHER")):
        (tmp_path / f"{user}.txt").write_text(f"{password}\n")
        (tmp_path / "passwords").touch(mode=0o600)
        subprocess.run([tool("mosquitto_passwd"), "-b", tmp_path / "passwords", user, password], check=True)
    text = example(page, "/etc/mosquitto/conf.d/ward.conf")
    text = text.replace("listener 1883", f"listener {free_port} 127.0.0.1").replace("/etc/mosquitto", str(tmp_path))
    (tmp_path / "ward.conf").write_text(f"{text}user root\n")
    broker = subprocess.Popen([tool("mosquitto"), "-c", tmp_path / "ward.conf"], stderr=subprocess.DEVNULL)
    sender = BrokerSettings(
        host="127.0.0.1",
        port=free_port,
        client_id="monitor-7",
        username="monitor-7",
        password_file=tmp_path / "monitor-7.txt",
        status_topic="",
    )
    agent = MqttSourceSettings.model_validate(
        tomllib.loads(example(page, "agent-mqtt.toml"))["sources"]["mqtt"]
        | {"host": "127.0.0.1", "port": free_port, "password_file": tmp_path / "deepecg.txt", "reconnect_max": 0.2}
    )
    queue: asyncio.Queue[Event] = asyncio.Queue()
    payload = example("docs/mqtt.md", "block.json").encode()
    try:
        async with MqttSource(agent, Metrics()) as source, MqttLink(sender, Metrics(), "t") as link:
            task = asyncio.create_task(source.run(queue))
            await asyncio.wait_for(source.subscribed.wait(), 20)
            await asyncio.wait_for(link.connected.wait(), 20)
            assert await link.publish(TOPIC, payload), "the agent listens"
            for other in (TOPIC.replace("monitor-1", "TEST"), TOPIC.replace("/7/", "/8/")):
                with pytest.raises(PublishRefusedError):
                    await link.publish(other, payload)
            block = await asyncio.wait_for(queue.get(), 10)
            task.cancel()
    finally:
        broker.terminate()
        broker.wait(5)
    assert isinstance(block, Samples)
    assert block.bed == "north/icu/7"
    assert queue.empty()
