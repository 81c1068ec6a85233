"""``deepecg-agent bundle``, as a person types it and as a program reads it, on the real demonstration bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from agent.cli import app
from agent.core.bundle.manifest import Manifest, schema
from agent.engines.bundles.bundle import UNSIGNED, default_bundle, open_bundle
from agent.engines.bundles.signing import key_id, sign, write_public_key
from agent.engines.local.engines import write_derived
from agent.engines.local.record import (
    CanaryState,
    Failure,
    Serving,
    Stage,
    Wanted,
    ask,
    now,
    read_record,
    update_record,
)
from agent.engines.machine import this_machine

ROOT = Path(__file__).resolve().parents[3]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ID = key_id(KEY.public_key())

SHIPPED = json.loads((default_bundle() / "manifest.json").read_text())
MODEL_ID = f"{SHIPPED['name']}/{SHIPPED['version']}"
F32 = [e for e in SHIPPED["engines"] if (e["flavour"], e["precision"]) == ("openvino", "f32")]
AFIB = next(label for label in SHIPPED["labels"] if label["name"] == "Afib")
GOLDEN = {"windows": "golden_windows.npy", "probabilities": "golden_probabilities.npy"}

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _logs_stay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """These commands run in the tests' own process, whose logging is not theirs to set."""
    with capture_logs():
        yield


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A configuration that trusts the publisher, and its state directory beside it."""
    write_public_key(tmp_path / "publisher.pub", KEY.public_key())
    text = f'[agent]\nstate_dir = "{tmp_path / "state"}"\n[sources.hl7]\nport = 2575\n'
    text += f'[engine]\ntrusted_keys = ["{tmp_path / "publisher.pub"}"]\n'
    (tmp_path / "agent.toml").write_text(text)
    return tmp_path


@pytest.fixture
def run(ward: Path) -> Run:
    def call(command: str, *words: str | Path) -> Result:
        return CliRunner().invoke(app, ["bundle", command, *map(str, words), "--config", str(ward / "agent.toml")])

    return call


@pytest.fixture
def offer(tmp_path: Path) -> Callable[..., Path]:
    """The demonstration bundle as another version, signed by the publisher."""

    def make(version: str, **changes: Any) -> Path:
        folder = Path(shutil.copytree(default_bundle(), tmp_path / "offered" / version))
        document = json.loads((folder / "manifest.json").read_text()) | {"version": version} | changes
        content = json.dumps(document).encode()
        (folder / "manifest.json").write_bytes(content)
        (folder / "manifest.sig").write_bytes(sign(content, KEY))
        return folder

    return make


def good(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result, said: str) -> None:
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("deepecg-agent: ")
    assert said in line
    assert result.stdout == ""


def test_from_an_archive_to_service_and_back(run: Run, offer: Callable[..., Path], tmp_path: Path) -> None:
    assert "No bundle is installed" in good(run("list"))
    assert "the demonstration bundle that comes with the package is served" in good(run("list"))
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        tar.add(offer("1.1"), "deepecg-sl-demo")
    out = good(run("install", tmp_path / "b.tar.gz", "--reason", "better"))
    assert f"deepecg-sl-demo/1.1 is installed, signed by key {ID}" in out
    assert "bundle activate deepecg-sl-demo/1.1" in out
    out = good(run("activate", "deepecg-sl-demo"))
    assert f"deepecg-sl-demo/1.1 is active, signed by key {ID}, openvino-" in out
    assert "passed its self-test" in out
    good(run("install", offer("1.2")))
    good(run("activate", "deepecg-sl-demo/1.2", "--reason", "round 2"))
    lines = good(run("list")).splitlines()
    assert [line.split() for line in lines] == [
        ["BUNDLE", "SIGNED", "BY"],
        ["previous", lines[1].split()[1], ID],
        ["active", lines[2].split()[1], ID],
    ]
    assert lines[1].split()[1].startswith("deepecg-sl-demo/1.1-")
    assert "deepecg-sl-demo/1.1 is active again" in good(run("rollback", "--reason", "too many alerts"))
    document = json.loads(good(run("list", "--json")))
    assert document["active"]["key"].startswith("deepecg-sl-demo/1.1-")
    assert document["highest"] == {"deepecg-sl-demo": "1.2"}
    assert [bundle["state"] for bundle in document["bundles"]] == ["active", ""]
    assert [event["action"] for event in document["history"]] == [
        "install",
        "activate",
        "install",
        "activate",
        "rollback",
    ]
    assert document["history"][-1]["reason"] == "too many alerts"


def test_what_is_refused_is_one_sentence(run: Run, offer: Callable[..., Path], ward: Path) -> None:
    refused(run("install", default_bundle()), "not trusted here")
    refused(run("install", ward / "none"), "cannot be opened")
    refused(run("install", ward / "agent.toml"), "no whole tar file")
    refused(run("activate", "deepecg-sl-demo"), "no installed bundle is called deepecg-sl-demo; installed: none.")
    refused(run("rollback"), "there is no bundle to roll back to")
    refused(run("show", "none"), "no installed bundle")
    refused(run("verify", "none"), "no installed bundle")
    refused(run("list", "--state", ward), "give --state or --config, not both")
    good(run("install", offer("2.0")))
    good(run("activate", "deepecg-sl-demo"))
    refused(run("install", offer("1.9")), "deepecg-sl-demo/1.9 is older than 2.0, which was served here")
    (ward / "agent.toml").write_text("[agnet]")
    refused(run("list"), "did you mean 'agent'")


def test_a_bundle_that_does_not_work_here_is_not_activated(run: Run, offer: Callable[..., Path]) -> None:
    good(run("install", offer("1.1", engines=F32, golden=GOLDEN | {"tolerance": 1e-12})))
    refused(run("activate", "deepecg-sl-demo"), "no engine that works on this machine")
    assert json.loads(good(run("list", "--json")))["active"] is None
    assert "is active" in good(run("activate", "deepecg-sl-demo", "--untested"))


def test_all_installed_bundles_are_verified(run: Run, offer: Callable[..., Path], ward: Path) -> None:
    assert good(run("verify")).split()[-3:-1] == ["good", MODEL_ID], "what is served, if none is there"
    for version in ("1.1", "1.2"):
        good(run("install", offer(version)))
    lines = good(run("verify")).splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["good", "good"]
    (spoilt,) = (ward / "state" / "bundles" / "deepecg-sl-demo").glob("1.2-*")
    (spoilt / "model.bin").write_bytes(b"x")
    result = run("verify")
    assert result.exit_code == 2
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["good", "bad"]
    result = run("verify", "--json")
    assert result.exit_code == 2
    verdicts = json.loads(result.stdout)
    assert [v["verdict"] for v in verdicts] == ["good", "bad"]
    assert "model.bin has 1 bytes instead of 5499976" in verdicts[1]["problem"]
    refused(run("verify", "deepecg-sl-demo/1.2"), "model.bin has 1 bytes")
    refused(run("verify", spoilt), "model.bin has 1 bytes")
    assert good(run("verify", offer("1.3"))).split()[-2:] == [str(ward / "offered" / "1.3"), ID]


def test_a_bundle_is_told_of_whole(run: Run, ward: Path) -> None:
    out = good(run("show"))
    for part in (
        MODEL_ID,
        "not the published DeepECG weights",
        "signed by  " + open_bundle(default_bundle()).signer,
        "openvino  f32",
        f"{AFIB['evidence']['auroc']:.3f} ({AFIB['evidence']['lower']:.3f}–",
        f"{AFIB['rule']['threshold']:g} in {AFIB['rule']['open_after']} windows",
        f"{sum(not label.get('evidence') for label in SHIPPED['labels'])} further labels have no evidence",
        "CC BY 4.0",
        "impact     None on patients",
    ):
        assert part in out
    document = json.loads(good(run("show", default_bundle(), "--json")))
    assert Manifest.model_validate(document["manifest"]) == open_bundle(default_bundle()).manifest
    assert document["derived"] == []


def test_an_engine_of_this_machine_is_told_of_too(run: Run, ward: Path) -> None:
    bundle = open_bundle(default_bundle())
    engine = next(e for e in bundle.manifest.engines if (e.flavour, e.precision) == ("openvino", "f32"))
    files = {name: bundle.read(name) for name in engine.files}
    write_derived(ward / "state", bundle, engine.model_copy(update={"library": "openvino here"}), this_machine(), files)
    assert "openvino here" in good(run("show"))
    (derived,) = json.loads(good(run("show", "--json")))["derived"]
    assert derived["engine"]["library"] == "openvino here"


def test_how_this_machine_s_own_engines_do(run: Run, ward: Path) -> None:
    state = ward / "state"
    assert "has compiled no engines" in good(run("shadow"))
    bundle = open_bundle(default_bundle())
    engine = next(e for e in bundle.manifest.engines if (e.flavour, e.precision) == ("openvino", "f32"))
    files = {name: bundle.read(name) for name in engine.files}
    names = [
        write_derived(state, bundle, engine.model_copy(update={"library": library}), this_machine(), files).path.name
        for library in ("one", "two", "three")
    ]
    figures = {"windows": 1200.0, "shift_p999": 0.002, "flips": 1.0, "alerts_old": 3.0, "alerts_new": 4.0}
    figures |= {"alerts_differ": 1.0, "median_old": 0.005, "median_new": 0.002}
    rejected = CanaryState(stage=Stage.REJECTED, since=now(), reason="it is slow", figures=figures)
    serving = Serving(engine=names[1], flavour="openvino", precision="f32")
    failure = Failure(
        parent=bundle.sha256, flavour="openvino", precision="int8w", machine="0" * 64, time=now(), reason="no products"
    )
    update_record(
        state,
        lambda record: (
            record.with_canary(names[0], rejected)
            .with_canary(names[1], CanaryState(stage=Stage.WATCH, since=now()))
            .with_serving(bundle.sha256, serving)
            .with_failure(failure)
        ),
    )
    ask(state, (Wanted(parent=bundle.sha256, model="m/1", flavour="openvino", precision="bf16", reason="it is old"),))
    out = good(run("shadow"))
    lines = {line.removeprefix("*").split()[0]: line for line in out.splitlines()}
    assert "1200 windows, shift 2.0e-03, 1 flips, 1 of 4 alerts differ, 2.0 ms a window (5.0)" in lines[names[0]]
    assert lines[names[0]].endswith("it is slow")
    assert lines[names[1]].startswith("*") and " watch " in lines[names[1]]
    assert " new " in lines[names[2]]
    assert "Asked for: openvino-bf16 for m/1, as it is old." in out
    assert "Not compiled: openvino-int8w" in out
    assert json.loads(good(run("shadow", "--json")))["tried"][names[0]]["reason"] == "it is slow"

    assert " new " in next(x for x in good(run("shadow", names[0])).splitlines() if names[0] in x)
    assert names[0] not in read_record(state).tried
    refused(run("shadow", "no-such-engine"), "has no engine called no-such-engine")
    refused(run("shadow", names[1]), "is on trial already (watch")


def test_a_bundle_does_not_steer_the_terminal(run: Run, offer: Callable[..., Path]) -> None:
    out = good(run("show", offer("1.1", statement="red \x1b[31m alert\nsecond line\u202e")))
    assert "red \\x1b[31m alert" in out
    assert "\x1b" not in out and "\u202e" not in out


def test_a_key_on_the_command_line_is_trusted_for_this_command(offer: Callable[..., Path], ward: Path) -> None:
    words = ["--state", str(ward / "other")]
    runner = CliRunner()
    refused(runner.invoke(app, ["bundle", "install", str(offer("1.1")), *words]), "not trusted here")
    words += ["--key", str(ward / "publisher.pub")]
    assert "is installed" in good(runner.invoke(app, ["bundle", "install", str(ward / "offered" / "1.1"), *words]))
    (problem,) = json.loads(good(runner.invoke(app, ["bundle", "list", *words[:2], "--json"])))["bundles"]
    assert "not trusted here" in problem["problem"]


def test_an_unsigned_bundle_shows_that_nobody_vouches_for_it(run: Run, offer: Callable[..., Path], ward: Path) -> None:
    folder = offer("1.1")
    (folder / "manifest.sig").unlink()
    refused(run("install", folder), "is not signed; take a signed one from its publisher")
    with (ward / "agent.toml").open("a") as file:
        file.write("require_signature = false\n")
    assert "is installed (not authenticated)" in good(run("install", folder))
    assert "nobody that is trusted: bundle" in good(run("show", "deepecg-sl-demo"))
    assert open_bundle(folder, UNSIGNED).warning
    assert "is not signed" in good(run("list"))


def test_the_schema_is_the_committed_one(tmp_path: Path) -> None:
    out = good(CliRunner().invoke(app, ["bundle", "schema"]))
    assert out == (ROOT / "deploy" / "manifest.schema.json").read_text(encoding="utf-8"), (
        "run: deepecg-agent bundle schema > deploy/manifest.schema.json"
    )
    document = json.loads(out)
    assert document["$defs"]["AlertRule"]["properties"]["open_after"]["description"]
    assert document["properties"].keys() == schema()["properties"].keys()


def test_the_command_itself(run: Run, ward: Path, offer: Callable[..., Path]) -> None:
    """A process of its own, with the logging that it sets itself, where everything is said at once."""
    good(run("install", offer("1.1", engines=F32, golden=GOLDEN | {"tolerance": 1e-12})))
    words = ["activate", "deepecg-sl-demo", "--config", str(ward / "agent.toml")]
    line = [sys.executable, "-m", "agent.cli", "bundle", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ward, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, "nothing but the sentence"
    assert "has no engine that works on this machine" in done.stderr
