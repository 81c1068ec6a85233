"""What is remembered of this machine's own engines, and which of them a bundle starts with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from structlog.testing import capture_logs

from agent.core.bundle.derived import Machine
from agent.engines.bundles.bundle import Bundle, BundleError
from agent.engines.local.engines import DerivedEngine
from agent.engines.local.rebuild import rebuild
from agent.engines.local.record import (
    RECORD,
    REQUEST,
    CanaryState,
    Failure,
    Record,
    Serving,
    Stage,
    Wanted,
    ask,
    choose,
    now,
    read_record,
    read_request,
    update_record,
)
from agent.engines.machine import this_machine

WANTED = Wanted(parent="0" * 64, model="ward/1", flavour="openvino", precision="int8w", reason="it does not fit")

Publisher: TypeAlias = Any


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def bundle(publisher: Publisher) -> Bundle:
    return publisher.open()


@pytest.fixture(scope="module")
def here() -> Machine:
    return this_machine()


@pytest.fixture
def engine(publisher: Publisher, bundle: Bundle, state: Path, here: Machine) -> DerivedEngine:
    return rebuild(bundle, "openvino", "int8w", state, publisher.settings(), here).engine


def promote(state: Path, bundle: Bundle, engine: DerivedEngine, stage: Stage, *, ended: bool = True) -> None:
    name = engine.path.name
    serving = Serving(engine=name, flavour="openvino", precision="int8w", ended=ended)
    update_record(
        state,
        lambda record: record.with_serving(bundle.sha256, serving).with_canary(
            name, CanaryState(stage=stage, since=now())
        ),
    )


def test_what_is_written_is_read(state: Path) -> None:
    tried = CanaryState(stage=Stage.REJECTED, since=now(), reason="too slow", figures={"windows": 12.0})
    written = update_record(state, lambda record: record.with_canary("a", tried))
    assert read_record(state) == written
    assert written.tried == {"a": tried}
    assert tried.is_over
    assert update_record(state, lambda record: record.with_canary("a", None)).tried == {}
    serving = Serving(engine="a", flavour="openvino", precision="bf16")
    record = update_record(state, lambda record: record.with_serving("0" * 64, serving))
    assert record.serving == {"0" * 64: serving}
    assert update_record(state, lambda record: record.with_serving("0" * 64, None)).serving == {}


def test_the_latest_trials_and_failures_are_kept() -> None:
    record = Record()
    for i in range(300):
        record = record.with_canary(f"e{i}", CanaryState(stage=Stage.KEPT, since=now()))
        failure = Failure(parent="0" * 64, flavour="openvino", precision="bf16", machine=f"{i:064x}", time=now())
        record = record.with_failure(failure)
    assert len(record.tried) == 201
    assert list(record.tried)[-1] == "e299"
    assert len(record.failed) == 200
    again = record.with_failure(record.failed[-1].model_copy(update={"reason": "no"}))
    assert len(again.failed) == 200
    assert again.without_failure(record.failed[-1]).failed == record.failed[:-1]


@pytest.mark.parametrize("content", ["{", '{"schema_version": 9}', '{"serving": {"x": 1}}', ""])
def test_a_record_that_cannot_be_read_costs_trials_and_nothing_else(state: Path, content: str) -> None:
    state.mkdir()
    (state / RECORD).write_text(content)
    (state / REQUEST).write_text(content)
    with capture_logs() as logs:
        assert read_record(state) == Record()
        assert read_request(state) is None
    assert {entry["event"] for entry in logs} == {"engines_record_unreadable", "rebuild_request_unreadable"}
    update_record(state, lambda record: record.with_canary("a", CanaryState(stage=Stage.KEPT, since=now())))
    assert list(read_record(state).tried) == ["a"]


def test_engines_are_asked_for_once(state: Path) -> None:
    state.mkdir()
    assert not ask(state, ())
    assert not (state / REQUEST).exists()
    with capture_logs() as logs:
        assert ask(state, (WANTED,))
        assert not ask(state, (WANTED,))
    assert [(entry["event"], entry["engine"], entry["reason"]) for entry in logs] == [
        ("rebuild_asked", "openvino-int8w", "it does not fit")
    ]
    request = read_request(state)
    assert request is not None
    assert request.wanted == (WANTED,)


def test_a_state_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="state directory"):
        update_record(tmp_path / "file", lambda record: record)
    with pytest.raises(BundleError, match="state directory"):
        ask(tmp_path / "file", (WANTED,))


def test_what_was_not_tried_serves_only_where_nothing_else_does(
    state: Path, bundle: Bundle, engine: DerivedEngine, here: Machine
) -> None:
    choice = choose(state, bundle, here)
    assert (choice.first, choice.lost) == ((), ())
    assert [b.path for b in choice.last] == [engine.path]
    update_record(state, lambda r: r.with_canary(engine.path.name, CanaryState(stage=Stage.REJECTED, since=now())))
    assert choose(state, bundle, here).last == ()


@pytest.mark.parametrize("stage", [Stage.KEPT, Stage.WATCH])
def test_what_was_promoted_serves_first(
    state: Path, bundle: Bundle, engine: DerivedEngine, here: Machine, stage: Stage
) -> None:
    promote(state, bundle, engine, stage)
    choice = choose(state, bundle, here)
    assert [b.path for b in choice.first] == [engine.path]
    assert (choice.last, choice.lost) == ((), ())


def test_an_engine_is_not_trusted_after_a_crash_while_it_was_watched(
    state: Path, bundle: Bundle, engine: DerivedEngine, here: Machine
) -> None:
    promote(state, bundle, engine, Stage.WATCH, ended=False)
    choice = choose(state, bundle, here)
    assert choice.first == ()
    assert [one.engine for one in choice.lost] == ["openvino-int8w"]
    assert "came to no planned end" in choice.lost[0].reason
    promote(state, bundle, engine, Stage.KEPT, ended=False)
    assert choose(state, bundle, here).first, "what was kept is like any other engine"


def test_what_no_longer_fits_is_said(state: Path, bundle: Bundle, engine: DerivedEngine, here: Machine) -> None:
    promote(state, bundle, engine, Stage.KEPT)
    updated = here.model_copy(update={"libraries": {**here.libraries, "openvino": "2099.1"}})
    choice = choose(state, bundle, updated)
    assert (choice.first, choice.last) == ((), ())
    assert "openvino is 2099.1 instead of" in choice.lost[0].reason
    spoilt = next(engine.path.glob("*.bin"))
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"x")
    assert "checksum" in choose(state, bundle, here).lost[0].reason
    shutil.rmtree(engine.path)
    assert choose(state, bundle, here).lost
    (state / "machine.key").unlink()
    assert "key is gone" in choose(state, bundle, here).lost[0].reason


def test_the_record_is_plain_json(state: Path, bundle: Bundle, engine: DerivedEngine) -> None:
    promote(state, bundle, engine, Stage.WATCH)
    document = json.loads((state / RECORD).read_text())
    assert document["serving"][bundle.sha256]["engine"] == engine.path.name
    assert document["tried"][engine.path.name]["stage"] == "watch"
