"""The HL7 sink against a real receiver on a real socket, which misbehaves as receivers in the field do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.core.ecg import Alert, Encounter, Phase, Priority
from agent.demo.receiver import Misbehaviour, Received, Receiver
from agent.ops.metrics import Metrics, totals
from agent.ops.tls import TlsSettings
from agent.sinks.hl7 import Hl7Sink
from agent.sinks.outbox import Outbox
from agent.sinks.settings import Hl7SinkSettings

START = Alert(
    alert_id="a",
    message_id="a-1",
    bed="h/icu/1",
    device="m1",
    label="Afib",
    code=199736,
    ref_id="MDC_EVT_ECG_ATR_FIB",
    text="Atrial fibrillation (advisory)",
    priority=Priority.MEDIUM,
    phase=Phase.START,
    active=True,
    opened=1_700_000_000.0,
    time=1_700_000_000.0,
    created=1_700_000_001.0,
    probability=0.93,
    threshold=0.8,
    model="sl/1",
    received=1.0,
    source_code=131328,
    encounter=Encounter(patient_ids=("CANARY-ID^^^H^MR",), family_name="CANARY-NAME", location="ICU^1^1"),
)
END = dataclasses.replace(START, message_id="a-2", phase=Phase.END, active=False, reason="recovered")


def alert(number: int, label: str = "Afib") -> Alert:
    return dataclasses.replace(START, alert_id=str(number), message_id=f"{number}-1", label=label)


class Ward:
    """An outbox, a sink that runs, and its numbers."""

    def __init__(self, outbox: Outbox, sink: Hl7Sink, metrics: Metrics) -> None:
        self.outbox, self.sink, self.metrics = outbox, sink, metrics

    def delivered(self) -> int:
        return totals(self.metrics.delivered).get("hl7", 0)

    def failures(self) -> dict[str, float]:
        samples = next(iter(self.metrics.delivery_failures.collect())).samples
        return {s.labels["reason"]: s.value for s in samples if s.name.endswith("_total")}

    async def until_delivered(self, seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while await self.outbox.undelivered("hl7"):
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def ward(tmp_path: Path, port: int, **settings: object) -> AsyncIterator[Ward]:
    fast = {"acknowledge_within": 0.4, "reconnect_longest": 0.2, "retry_rejected": 0.3} | settings
    metrics = Metrics()
    async with Outbox(tmp_path / "o.sqlite", ("hl7",)) as outbox:
        sink = Hl7Sink(Hl7SinkSettings.model_validate({"host": "127.0.0.1", "port": port} | fast), outbox, metrics)
        task = asyncio.create_task(sink.run())
        try:
            yield Ward(outbox, sink, metrics)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def ids(receiver: Receiver) -> list[str]:
    return [received.message_id for received in receiver.alerts]


async def test_an_alert_arrives_once_with_all_that_it_says(tmp_path: Path) -> None:
    async with Receiver() as receiver, ward(tmp_path, receiver.port) as w:
        await w.outbox.commit([START, END])
        start, end = await receiver.next(), await receiver.next()
        assert start == Received(
            bed="h/icu/1",
            label="Afib",
            text="Atrial fibrillation (advisory)",
            code=199736,
            priority="PM",
            phase="start",
            active=True,
            kind="SP",
            time=1_700_000_000.0,
            alert_id="a",
            message_id="a-1",
            patient_known=True,
            location="ICU^1^1",
            received=start.received,
        )
        assert (end.alert_id, end.message_id, end.phase, end.active) == ("a", "a-2", "end", False)
        assert "CANARY" not in str(start) and "PM" in str(start) and "h/icu/1" in str(start)
        await w.until_delivered()
        await asyncio.sleep(0.1)
        assert w.delivered() == 2 and w.failures() == {} and w.sink.problem is None
        assert receiver.connections == 1 and receiver.messages == 2
        assert w.metrics.registry.get_sample_value("deepecg_undelivered", {"sink": "hl7"}) == 0


@pytest.mark.parametrize(
    ("how", "reason", "repeated"),
    [
        (Misbehaviour.COMMIT, None, 0),
        (Misbehaviour.DOUBLE, None, 0),
        (Misbehaviour.SPLIT, None, 0),
        (Misbehaviour.UNFRAMED, None, 0),
        (Misbehaviour.GARBAGE, "not_an_acknowledgement", 0),
        (Misbehaviour.LATE_ERROR, "late_ae", 0),
        (Misbehaviour.ERROR, "rejected_ae", 0),
        (Misbehaviour.REJECT, "rejected_ar", 0),
        (Misbehaviour.SILENT, "timeout", 0),
        (Misbehaviour.LATE, "timeout", 1),
        (Misbehaviour.CLOSE, "closed", 0),
        (Misbehaviour.CLOSE_MID, "closed", 1),
        (Misbehaviour.FOREIGN, "foreign_acknowledgement", 1),
    ],
)
async def test_every_misbehaviour_ends_in_delivery(
    tmp_path: Path, how: Misbehaviour, reason: str | None, repeated: int
) -> None:
    async with Receiver(misbehaviours=[how]) as receiver, ward(tmp_path, receiver.port) as w:
        await w.outbox.commit([START, END, alert(7)])
        await w.until_delivered()
        assert sorted(ids(receiver)) == ["7-1", "a-1", "a-2"]
        assert ids(receiver).index("a-1") < ids(receiver).index("a-2"), "in order within the alert"
        assert receiver.repeated == repeated
        assert w.delivered() == 3
        assert set(w.failures()) - {"timeout"} <= ({reason} if reason else set())
        assert reason is None or w.failures()[reason] == 1
        assert w.sink.problem is None


async def test_a_late_answer_never_meets_the_next_message(tmp_path: Path) -> None:
    """The first message is answered after the time-out, the second AE: the late AA must not stand for it."""
    faults = [Misbehaviour.LATE, Misbehaviour.ERROR]
    async with (
        Receiver(misbehaviours=faults, late=0.5) as receiver,
        ward(tmp_path, receiver.port, retry_rejected=600.0) as w,
    ):
        await w.outbox.commit([START, alert(7)])
        async with asyncio.timeout(10):
            while w.failures().get("rejected_ae", 0) < 1 or w.delivered() < 1:
                await asyncio.sleep(0.02)
        assert await w.outbox.undelivered("hl7") == 1
        assert w.failures()["timeout"] == 1 and receiver.connections == 2


async def test_one_refused_message_does_not_hold_back_other_alerts(tmp_path: Path) -> None:
    async with Receiver(refuse=frozenset({"Brugada"})) as receiver, ward(tmp_path, receiver.port) as w:
        refused = alert(1, "Brugada")
        later = dataclasses.replace(refused, message_id="1-2", phase=Phase.END, active=False)
        await w.outbox.commit([refused, later, *[alert(n) for n in range(2, 12)]])
        async with asyncio.timeout(10):
            while w.failures().get("rejected_ar", 0) < 3 or w.delivered() < 10:
                await asyncio.sleep(0.02)
        assert await w.outbox.undelivered("hl7") == 2, "the refused one is not dropped, nor passed by its end"
        receiver.refuse = frozenset()
        await w.until_delivered()
        assert ids(receiver)[-2:] == ["1-1", "1-2"]


async def test_a_message_that_the_receiver_chokes_on_does_not_hold_back_other_alerts(tmp_path: Path) -> None:
    class Choking(Receiver):
        async def _answer(self, message: bytes, writer: asyncio.StreamWriter) -> bool:
            return b"Brugada" not in message and await super()._answer(message, writer)

    async with Choking() as receiver, ward(tmp_path, receiver.port) as w:
        await w.outbox.commit([alert(1, "Brugada"), *[alert(n) for n in range(2, 7)]])
        async with asyncio.timeout(15):
            while w.delivered() < 5:
                await asyncio.sleep(0.02)
        assert w.failures()["closed"] >= 1


async def test_what_waits_from_before_goes_out_when_the_receiver_comes(tmp_path: Path, free_port: int) -> None:
    async with ward(tmp_path, free_port) as w:
        await w.outbox.commit([START, END])
        async with asyncio.timeout(10):
            while not w.failures().get("connect"):
                await asyncio.sleep(0.02)
        assert w.sink.problem == "connect"
        async with Receiver(port=free_port) as receiver:
            await w.until_delivered()
            assert ids(receiver) == ["a-1", "a-2"] and w.sink.problem is None
            receiver.drop()  # a restart between two alerts costs nothing
            await asyncio.sleep(0.1)
            await w.outbox.commit([alert(7)])
            await w.until_delivered()
            assert "closed" not in w.failures() and receiver.connections == 2


async def test_messages_outlive_the_process_that_committed_them(tmp_path: Path, free_port: int) -> None:
    async with ward(tmp_path, free_port) as w:
        await w.outbox.commit([START])
    async with Receiver(port=free_port) as receiver, ward(tmp_path, free_port) as w:
        await w.until_delivered()
        assert ids(receiver) == ["a-1"]


async def test_watchdog_messages_and_the_last_word_of_a_planned_stop(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        async with ward(tmp_path, receiver.port, watchdog_every=0.1) as w:
            await w.outbox.commit([START])
            async with asyncio.timeout(10):
                while len(receiver.watchdogs) < 3:
                    await asyncio.sleep(0.02)
        assert receiver.watchdogs[:3] == ["start", "continue", "continue"]
        assert receiver.watchdogs[-1] == "end" and ids(receiver) == ["a-1"]


async def test_a_silent_receiver_is_noticed_by_the_watchdog(tmp_path: Path) -> None:
    async with Receiver(misbehaviours=[Misbehaviour.SILENT] * 50) as receiver:
        async with ward(tmp_path, receiver.port, watchdog_every=0.1) as w:
            async with asyncio.timeout(10):
                while w.sink.problem != "timeout":
                    await asyncio.sleep(0.02)


async def test_tls_with_client_certificates(tmp_path: Path, authorities: Any) -> None:
    authority = authorities("ca")
    server, client = authority.issue("server"), authority.issue("agent")
    async with Receiver(tls=server) as receiver:
        async with ward(tmp_path, receiver.port, tls=client, acknowledge_within=5.0) as w:
            await w.outbox.commit([START])
            await w.until_delivered()
            assert ids(receiver) == ["a-1"] and w.failures() == {}
        for nobody in (TlsSettings(ca=authority.path), None):  # without a certificate, and in the clear
            async with ward(tmp_path, receiver.port, tls=nobody) as w:
                await w.outbox.commit([END])
                await until_failure(w, {"closed", "tls", "timeout"})
                assert await w.outbox.undelivered("hl7") == 1
    assert ids(receiver) == ["a-1"]


async def test_a_receiver_that_cannot_prove_who_it_is_gets_nothing(tmp_path: Path, authorities: Any) -> None:
    authority, stranger = authorities("ca"), authorities("other")
    client, misnamed = authority.issue("agent"), authority.issue("server")
    impostor = stranger.issue("server", "impostor").model_copy(update={"ca": authority.path})
    for host, tls in (("127.0.0.1", impostor), ("127.0.0.2", misnamed)):
        async with Receiver(host, tls=tls) as receiver, ward(tmp_path, receiver.port, host=host, tls=client) as w:
            await w.outbox.commit([START])
            await until_failure(w, {"tls"})
            assert receiver.messages == 0 and w.sink.problem == "tls"


async def until_failure(w: Ward, reasons: set[str]) -> None:
    async with asyncio.timeout(10):
        while not w.failures():
            await asyncio.sleep(0.02)
    assert set(w.failures()) <= reasons


async def test_no_patient_data_in_logs_and_metrics(tmp_path: Path) -> None:
    faults = [Misbehaviour.ERROR, Misbehaviour.CLOSE, Misbehaviour.GARBAGE, Misbehaviour.FOREIGN]
    with capture_logs() as logs:
        async with Receiver(misbehaviours=faults) as receiver, ward(tmp_path, receiver.port) as w:
            await w.outbox.commit([START, END])
            await w.until_delivered()
            text = w.metrics.render().decode()
    assert logs and "CANARY" not in str(logs) and "CANARY" not in text


PROGRAM = textwrap.dedent("""
    import asyncio, dataclasses, os, signal, sys, time
    from pathlib import Path
    from agent.core.ecg import Alert, Phase, Priority
    from agent.ops.metrics import Metrics, totals
    from agent.sinks.hl7 import Hl7Sink
    from agent.sinks.settings import Hl7SinkSettings
    from agent.sinks.outbox import Outbox

    path, port = Path(sys.argv[1]), int(sys.argv[2])

    def say(line):
        os.write(1, f"{line}\\n".encode())  # at once or not at all, unlike print()

    async def live(life, count):
        async with Outbox(path, ("hl7",)) as outbox:
            sink = Hl7Sink(Hl7SinkSettings(host="127.0.0.1", port=port, reconnect_longest=0.1), outbox, Metrics())
            task = asyncio.create_task(sink.run())
            for i in range(count):
                start = Alert(f"{life}.{i}", f"{life}.{i}.start", "h/icu/1", "m1", "Afib", 199736, "MDC_EVT_X",
                              "AF (advisory)", Priority.MEDIUM, Phase.START, True, 0.0, 0.0, 0.0, 0.9, 0.8, "m", 0.0)
                end = dataclasses.replace(start, message_id=f"{life}.{i}.end", phase=Phase.END, active=False)
                await outbox.commit([start])
                say(start.message_id)
                await outbox.commit([end])
                say(end.message_id)
                await asyncio.sleep(0.002)
            while await outbox.undelivered("hl7"):
                await asyncio.sleep(0.02)
            task.cancel()

    for line in sys.stdin:  # each line is one life, in a process of its own
        life, count, kill_after = line.split()
        child = os.fork()
        if child == 0:
            asyncio.run(live(life, int(count)))
            os._exit(0)
        if float(kill_after):
            time.sleep(float(kill_after))
            os.kill(child, signal.SIGKILL)
        say(f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
""")


async def test_kill_9_at_any_point_loses_no_committed_alert(tmp_path: Path) -> None:
    """A process that commits and sends is killed many times; all that it ever called committed arrives, once each."""
    seed = int(time.time())
    chance = random.Random(seed)
    committed: set[str] = set()
    async with Receiver() as receiver:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, str(tmp_path / "o.sqlite"), str(receiver.port)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None and process.stdout is not None

        async def live(name: str, count: int, kill_after: float) -> int:
            process.stdin.write(f"{name} {count} {kill_after}\n".encode())
            while line := (await process.stdout.readline()).decode():
                if line.startswith("ended"):
                    return int(line.split()[1])
                committed.add(line.strip())
            raise AssertionError("the program itself died")

        async with asyncio.timeout(120):
            for n in range(25):
                assert await live(f"life{n}", 10_000, chance.uniform(0.001, 0.4)) == -9
            assert await live("last", 3, 0) == 0
        process.stdin.close()
        await process.wait()
    arrived = [a.message_id for a in receiver.alerts]
    assert committed - set(arrived) == set(), f"seed {seed}"
    assert len(committed) > 20 and len(arrived) == len(set(arrived))
    position = {message: i for i, message in enumerate(arrived)}
    for message in arrived:
        if message.endswith(".end"):
            assert position[message.replace(".end", ".start")] < position[message], f"seed {seed}"
