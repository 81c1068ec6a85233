"""The outbox: durable, idempotent, in order within an alert, loud when the disk refuses."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agent.core.ecg import Alert, Encounter, Phase, Priority
from agent.sinks.database import OutboxError
from agent.sinks.outbox import Outbox

START = Alert(
    alert_id="a1",
    message_id="a1-start",
    bed="h/icu/1",
    device="m1",
    label="Afib",
    code=199736,
    ref_id="MDC_EVT_ATR_FIB",
    text="Atrial fibrillation (advisory)",
    priority=Priority.MEDIUM,
    phase=Phase.START,
    active=True,
    opened=1000.0,
    time=1000.0,
    created=1001.5,
    probability=0.93,
    threshold=0.8,
    model="sl/1",
    received=12.25,
    source_code=131328,
    encounter=Encounter(patient_ids=("4711^^^H^MR",), family_name="Canary", location="ICU^1^1"),
)
END = dataclasses.replace(START, message_id="a1-end", phase=Phase.END, active=False, time=1100.0, reason="recovered")
OTHER = dataclasses.replace(START, alert_id="b1", message_id="b1-start", bed="h/icu/2", encounter=None)


async def sql(outbox: Outbox, statement: str) -> object:
    """One row of what a statement gives on the outbox's own connection, which locks everybody else out."""
    return await outbox._call(lambda: outbox._database._connection().execute(statement).fetchone())


async def test_each_sink_gets_every_alert_until_it_says_delivered(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "o.sqlite", ("hl7", "mqtt")) as outbox:
        assert await outbox.commit([START, OTHER]) == 2
        assert await outbox.pending("hl7", 10) == (START, OTHER)
        await outbox.delivered("hl7", START.message_id)
        assert await outbox.pending("hl7", 10) == (OTHER,)
        assert await outbox.pending("mqtt", 10) == (START, OTHER)
        assert await outbox.pending("mqtt", 1) == (START,)
        assert (await outbox.undelivered("hl7"), await outbox.undelivered("mqtt")) == (1, 2)


async def test_committing_a_message_again_changes_nothing(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "o.sqlite", ("hl7",)) as outbox:
        assert await outbox.commit([START, START]) == 1
        await outbox.delivered("hl7", START.message_id)
        assert await outbox.commit([START, END]) == 1
        assert await outbox.pending("hl7") == (END,)


async def test_a_message_never_overtakes_an_earlier_one_of_its_alert(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "o.sqlite", ("hl7",)) as outbox:
        await outbox.commit([START, END, OTHER])
        assert await outbox.pending("hl7") == (START, OTHER)
        assert await outbox.failed("hl7", START.message_id, "rejected", hold=60) == 1
        assert await outbox.pending("hl7") == (OTHER,), "the end must not pass its start, which is on hold"
        assert await outbox.failed("hl7", START.message_id, "rejected", hold=0) == 2
        await outbox.delivered("hl7", START.message_id)
        assert await outbox.pending("hl7") == (END, OTHER)


async def test_a_hold_ends_by_itself_and_with_a_restart(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "o.sqlite", ("hl7",)) as outbox:
        await outbox.commit([START, OTHER])
        await outbox.failed("hl7", START.message_id, "timeout", hold=0.2)
        await outbox.failed("hl7", OTHER.message_id, "rejected", hold=3000)
        assert await outbox.pending("hl7") == ()
        await asyncio.sleep(0.3)
        assert await outbox.pending("hl7") == (START,)
    async with Outbox(tmp_path / "o.sqlite", ("hl7",)) as outbox:
        assert await outbox.pending("hl7") == (START, OTHER)


async def test_a_clock_set_back_does_not_prolong_a_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Outbox(tmp_path / "o.sqlite", ("hl7",)) as outbox:
        await outbox.commit([START])
        await outbox.failed("hl7", START.message_id, "timeout", hold=100)
        assert await outbox.pending("hl7") == ()
        monkeypatch.setattr("agent.sinks.outbox.time.time", lambda: 1000.0)
        assert await outbox.pending("hl7") == (START,)


async def test_open_alerts_are_known_after_a_restart(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "o.sqlite", ("hl7",)) as outbox:
        await outbox.commit([START, OTHER])
        await outbox.commit([END])
    async with Outbox(tmp_path / "o.sqlite", ("hl7",)) as outbox:
        assert await outbox.open_alerts() == (OTHER,)
        assert await outbox.pending("hl7") == (START, OTHER)


async def test_a_commit_wakes_every_sink(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "o.sqlite", ("hl7", "mqtt")) as outbox:
        await outbox.wait("hl7", 5)  # opening wakes once: there may be rows of an earlier life
        async with asyncio.timeout(3):
            async with asyncio.TaskGroup() as group:
                group.create_task(outbox.wait("hl7", 60))
                group.create_task(outbox.wait("mqtt", 60))
                await asyncio.sleep(0.05)
                await outbox.commit([START])
        await outbox.wait("hl7", 0.05)  # and comes back without a commit, when its time is over


async def test_pruning_deletes_only_what_is_old_delivered_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    fresh = dataclasses.replace(OTHER, alert_id="c1", message_id="c1-start", created=4e9)
    waits = dataclasses.replace(END, alert_id="d1", message_id="d1-end")
    async with Outbox(path, ("hl7", "mqtt"), keep_days=1) as outbox:
        await outbox.commit([START, END, OTHER, fresh, waits])
        for sink in ("hl7", "mqtt"):
            for alert in (START, END, OTHER, fresh):
                await outbox.delivered(sink, alert.message_id)
        await outbox.delivered("hl7", waits.message_id)
        assert await outbox.prune() == 2
        assert await outbox.open_alerts() == (OTHER, fresh)
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = {row[0] for row in db.execute("SELECT message_id FROM alert")}
        left = db.execute("SELECT sink, message_id FROM waiting JOIN alert USING (sequence)").fetchall()
    assert rows == {"b1-start", "c1-start", "d1-end"}
    assert left == [("mqtt", "d1-end")]


async def test_the_file_is_durable_private_and_for_one_agent(tmp_path: Path) -> None:
    path = tmp_path / "state" / "o.sqlite"
    old = os.umask(0)
    try:
        async with Outbox(path, ("hl7",)) as outbox:
            await outbox.commit([START])
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.with_name("o.sqlite-wal").stat().st_mode) == 0o600
            assert await sql(outbox, "PRAGMA journal_mode") == ("wal",)
            assert await sql(outbox, "PRAGMA synchronous") == (2,)
            with pytest.raises(OutboxError, match="locked by another process"):
                async with Outbox(path, ("hl7",)):
                    pass
    finally:
        os.umask(old)


async def test_a_full_disk_is_said_loudly_and_loses_nothing(tmp_path: Path) -> None:
    big = [dataclasses.replace(START, alert_id=str(i), message_id=str(i), text="x" * 4000) for i in range(400)]
    async with Outbox(tmp_path / "o.sqlite", ("hl7",), max_bytes=1 << 20) as outbox:
        await outbox.commit([START])
        with pytest.raises(OutboxError, match="full"):
            await outbox.commit(big)
        assert outbox.problem is not None and "max_bytes" in outbox.problem
        assert await outbox.pending("hl7", 500) == (START,), "nothing of a failed transaction is there"
        with pytest.raises(OutboxError, match="full"):
            await outbox.commit([END])
        await sql(outbox, "PRAGMA max_page_count = 100000")  # somebody makes room
        retry = asyncio.create_task(outbox.run())
        async with asyncio.timeout(5):
            while outbox.problem is not None:
                await asyncio.sleep(0.05)
        retry.cancel()
        assert await outbox.undelivered("hl7") == 402
        await outbox.delivered("hl7", START.message_id)
        assert END in await outbox.pending("hl7", 500)


async def test_a_commit_that_is_cancelled_while_it_waits_loses_nothing(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "outbox.sqlite", ("hl7",)) as outbox:
        async with outbox._lock:  # another commit is under way
            waiting = asyncio.create_task(outbox.commit([START]))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert await outbox.commit([END]) == 2
        assert await outbox.pending("hl7") == (START,)


async def test_the_backlog_in_memory_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    async with Outbox(path, ("hl7",), backlog=3) as outbox:
        await sql(outbox, "PRAGMA query_only = ON")
        for i in range(5):
            with pytest.raises(OutboxError, match="cannot be written"):
                await outbox.commit([dataclasses.replace(START, alert_id=str(i), message_id=str(i))])
        await sql(outbox, "PRAGMA query_only = OFF")
        assert await outbox.commit(()) == 3
        assert [a.message_id for a in await outbox.pending("hl7")] == ["2", "3", "4"]
        assert outbox.problem is None


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read as one" * 100])
async def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "o.sqlite"
    path.write_bytes(content)
    with pytest.raises(OutboxError, match="damaged; move it aside"):
        async with Outbox(path, ("hl7",)):
            pass
    assert path.read_bytes() == content


async def test_a_file_of_a_newer_agent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(OutboxError, match="newer agent"):
        async with Outbox(path, ("hl7",)):
            pass


async def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match="look after its disk"):
        async with Outbox(tmp_path / "file" / "o.sqlite", ("hl7",)):
            pass


async def test_a_closed_outbox_says_so(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", ("hl7",))
    with pytest.raises(OutboxError, match="closed"):
        await outbox.commit([START])


def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    """A process commits and reports each id, and is killed at once by itself: all that it reported is there."""
    program = textwrap.dedent("""
        import asyncio, dataclasses, os, signal, sys
        from pathlib import Path
        from agent.core.ecg import Alert, Phase, Priority
        from agent.sinks.outbox import Outbox
        async def main():
            async with Outbox(Path(sys.argv[1]), ("hl7",)) as outbox:
                for i in range(20):
                    await outbox.commit([Alert(str(i), str(i), "b", "d", "Afib", 1, "", "t", Priority.LOW, Phase.START,
                                               True, 0.0, 0.0, 0.0, None, None, "m", 0.0)])
                    print(i, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """)
    path = tmp_path / "o.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -9, done.stderr
    reported = done.stdout.split()
    assert len(reported) == 20

    async def read() -> list[str]:
        async with Outbox(path, ("hl7",)) as outbox:
            return [alert.message_id for alert in await outbox.pending("hl7", 100)]

    assert asyncio.run(read()) == reported
