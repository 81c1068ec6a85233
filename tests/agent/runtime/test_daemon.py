"""The whole agent: real broker, real sockets, real receiver, the shipped bundle.

A process of its own wherever signals, logs or a kill are what matters; otherwise in the test's own loop, which saves
the seconds that its libraries take to load.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, chdir
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.config import ConfigError, load
from agent.core.ecg import LEADS, Channel, ChannelKind, Encounter, EncounterEvent, FloatArray, Samples
from agent.core.hl7 import mllp
from agent.core.mqtt.binary import BINARY_TYPE, encode_binary
from agent.core.mqtt.block import code_of_lead
from agent.demo.broker import free_port
from agent.demo.receiver import Received, Receiver
from agent.engines.bundles.bundle import BundleError, default_bundle
from agent.engines.bundles.signing import sign, write_public_key
from agent.engines.bundles.store import Store
from agent.engines.settings import EngineSettings
from agent.mqtt.link import MqttLink
from agent.mqtt.settings import BrokerSettings
from agent.ops.metrics import Metrics
from agent.ops.tls import TlsError
from agent.runtime import daemon
from agent.runtime.build import StartError
from agent.simulator.ecg import Rhythm, synthesize
from agent.simulator.monitors import adt, hl7_message

RATE = 250.0
SECONDS = 60
PATIENT = Encounter(
    patient_ids=("CANARY-ID^^^H^MR",), family_name="Canaryfamily", given_name="Canarygiven", location="ward^^h1^demo"
)


@pytest.fixture(scope="module")
def fibrillation() -> FloatArray:
    return synthesize(Rhythm.AFIB, seconds=SECONDS, rate=RATE, seed=3)


class Agent:
    """``deepecg-agent run`` with a configuration of the test's."""

    def __init__(self, folder: Path, *, broker: int | None = None, receiver: int | None = None) -> None:
        self.folder = folder
        self.hl7 = free_port()
        self.page = free_port()
        tables = [
            f"[agent]\nstate_dir = {json.dumps(str(folder))}",
            f"[sources.hl7]\nport = {self.hl7}",
            "[engine]\nqueue_per_bed = 64",
            f"[station]\nport = {self.page}",
        ]
        if broker is not None:
            tables += [f'[sources.mqtt]\nhost = "127.0.0.1"\nport = {broker}']
            tables += [f'[sinks.mqtt]\nhost = "127.0.0.1"\nport = {broker}']
        if receiver is not None:
            tables += [f'[sinks.hl7]\nhost = "127.0.0.1"\nport = {receiver}\nreconnect_longest = 0.5']
        self.config = folder / "agent.toml"
        self.config.write_text("\n".join(tables))
        self.log = folder / "agent.log"

    @asynccontextmanager
    async def running(self, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agent.cli", "run", "--config", str(self.config)),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **environment},
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        """In this loop, from when it is well to the end of its planned stop. What `daemon.run` raises is raised."""
        stop = asyncio.Event()
        with chdir(self.folder):  # paths in the configuration are relative to where the service runs
            run = asyncio.create_task(daemon.run(load(self.config), stop))
            try:
                while not run.done() and not await self._well():
                    await asyncio.sleep(0.02)
                if run.done():
                    await run
                yield
            finally:
                stop.set()
                await asyncio.wait((run,))
            await run

    async def _well(self) -> bool:
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(f"http://127.0.0.1:{self.page}/healthz") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

    async def healthy(self, process: asyncio.subprocess.Process) -> None:
        async with asyncio.timeout(60):
            while not await self._well():
                assert process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.05)

    async def state(self) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.page}/api/state") as answer,
        ):
            return await answer.json()

    async def metrics(self) -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.page}/metrics") as answer,
        ):
            return await answer.text()


async def send_hl7(port: int, messages: list[bytes]) -> list[bytes]:
    """Send the messages over one connection, each after the answer to the last; the answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    decoder = mllp.Decoder()
    answers: list[bytes] = []
    for message in messages:
        writer.write(mllp.encode(message))
        await writer.drain()
        while not (found := decoder.feed(await asyncio.wait_for(reader.read(65536), 20))):
            pass
        answers += found
    writer.close()
    return answers


def hl7_feed(ecg: FloatArray, start: float, bed: str = "demo/ward/h1") -> list[bytes]:
    n = round(RATE)
    return [
        hl7_message("philips", bed, LEADS, ecg[:, k * n : (k + 1) * n], RATE, start + k, k, PATIENT)
        for k in range(ecg.shape[1] // n)
    ]


async def send_mqtt(port: int, ecg: FloatArray, start: float, bed: str = "demo/ward/m1") -> None:
    channels = tuple(Channel(ChannelKind.ECG, code_of_lead(lead.value), lead.value, "mV", RATE, lead) for lead in LEADS)
    settings = BrokerSettings(host="127.0.0.1", port=port, client_id="t-monitor", status_topic="")
    n = round(RATE)
    async with MqttLink(settings, Metrics(), "t") as link:
        await link.connected.wait()
        for k in range(ecg.shape[1] // n):
            values = tuple(ecg[:, k * n : (k + 1) * n])
            block = Samples(bed, "monitor", channels, values, start + k, 0.0, sequence=k)
            await link.publish(f"ward/v1/{bed}/ecg/monitor", encode_binary(block), content_type=BINARY_TYPE)


async def wait_for(receiver: Receiver, bed: str, phase: str, label: str = "Afib", seconds: float = 60) -> Received:
    async with asyncio.timeout(seconds):
        while True:
            for alert in receiver.alerts:
                if (alert.bed, alert.phase, alert.label) == (bed, phase, label):
                    return alert
            await asyncio.sleep(0.05)


class Manager:
    """What a service manager hears on the socket that NOTIFY_SOCKET names."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self._socket.setblocking(False)

    async def hear(self, word: str) -> None:
        async with asyncio.timeout(40):
            while not any(word in message for message in self.said):
                self.said.append((await asyncio.get_running_loop().sock_recv(self._socket, 4096)).decode())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


async def test_a_day_of_a_service_from_its_start_without_a_broker_to_its_planned_stop(
    tmp_path: Path, start_mosquitto: Any, manager: Manager, fibrillation: FloatArray
) -> None:
    """Ready only after the subscription; fibrillation raises an alert over both feeds, and a discharge ends it."""
    broker = start_mosquitto()
    broker.stop()
    start = time.time() - SECONDS - 5
    async with Receiver() as receiver:
        agent = Agent(tmp_path, broker=broker.port, receiver=receiver.port)
        async with agent.running(NOTIFY_SOCKET=str(manager.address)) as process:
            await manager.hear("STATUS=")
            assert not any("READY=1" in message for message in manager.said)  # there is no broker yet
            broker.start()
            await manager.hear("READY=1")
            await manager.hear("WATCHDOG=1")
            await agent.healthy(process)
            answers, _ = await asyncio.gather(
                send_hl7(agent.hl7, hl7_feed(fibrillation, start)), send_mqtt(broker.port, fibrillation, start)
            )
            assert all(b"|AA|" in answer or b"|CA|" in answer for answer in answers)

            over_hl7 = await wait_for(receiver, "demo/ward/h1", "start")
            over_mqtt = await wait_for(receiver, "demo/ward/m1", "start")
            assert over_hl7.patient_known
            assert not over_mqtt.patient_known  # an unknown patient stays unknown
            assert over_hl7.location == "ward^^h1^demo"

            discharge = adt(EncounterEvent.DISCHARGE, "demo/ward/h1", PATIENT, 1, time.time())
            assert b"MSA|CA|" in (await send_hl7(agent.hl7, [discharge]))[0]
            ended = await wait_for(receiver, "demo/ward/h1", "end")
            assert ended.alert_id == over_hl7.alert_id
            assert not ended.active
            assert not [a for a in receiver.alerts if a.bed == "demo/ward/m1" and a.phase == "end"]

            dropped = [x for x in (await agent.metrics()).splitlines() if x.startswith("deepecg_windows_dropped_total")]
            assert dropped == []

            process.send_signal(signal.SIGTERM)
            await manager.hear("STOPPING=1")
            assert await asyncio.wait_for(process.wait(), 20) == 0
            # A planned stop leaves nothing active behind.
            await wait_for(receiver, "demo/ward/m1", "end")
    log = agent.log.read_text()
    for canary in ("CANARY", "Canary"):
        assert canary not in log
    assert (tmp_path / "outbox.sqlite").stat().st_mode & 0o077 == 0


async def test_what_was_committed_before_kill_9_is_delivered_after_it(tmp_path: Path, fibrillation: FloatArray) -> None:
    start = time.time() - SECONDS - 5
    port = free_port()
    agent = Agent(tmp_path, receiver=port)
    async with agent.running() as process:
        await agent.healthy(process)
        await send_hl7(agent.hl7, hl7_feed(fibrillation, start))
        async with asyncio.timeout(60):  # nobody listens at the receiver's port: it waits in the outbox
            while 'deepecg_alerts_total{label="Afib",phase="start"}' not in await agent.metrics():
                await asyncio.sleep(0.1)
        process.kill()
        await process.wait()
    async with Receiver(port=port) as receiver, agent.inside():
        alert = await wait_for(receiver, "demo/ward/h1", "start")
        assert alert.active


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("[engine]", '[engine]\nbundle = "nowhere"'), "no bundle at nowhere"),
        (lambda text: text.replace("[engine]", "[engine]\nbundle = 'demo'"), "not trusted here"),
        (lambda text: text.replace("[engine]", '[engine]\ntrusted_keys = ["no.pem"]'), "no.pem cannot be opened"),
        (lambda text: text + "\n[windows]\nseconds = 8\n", "windows.seconds is 8"),
        (lambda text: text + '\n[alerts]\nsuppress = ["Nonsense"]\n', "'Nonsense' is no label"),
        (
            lambda text: text.replace("[sources.hl7]", '[sources.hl7]\nhost = "203.0.113.7"'),
            "[sources.hl7] cannot listen",
        ),
        (
            lambda text: text + '\n[sources.hl7.tls]\nca = "no.pem"\ncertificate = "no.pem"\nkey = "no.pem"\n',
            "the TLS files no.pem, no.pem, no.pem cannot be used",
        ),
    ],
)
async def test_a_start_that_cannot_be_is_one_sentence(tmp_path: Path, change: object, said: str) -> None:
    assert callable(change)
    agent = Agent(tmp_path)
    shutil.copytree(default_bundle(), tmp_path / "demo")  # outside of the package its key is not trusted
    agent.config.write_text(change(agent.config.read_text()))
    with pytest.raises((ConfigError, BundleError, StartError, TlsError)) as caught:
        async with agent.inside():
            pytest.fail("it has started")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_the_command_says_it_and_ends_with_status_2(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.config.write_text(agent.config.read_text().replace("[engine]", '[engine]\nbundle = "nowhere"'))
    async with agent.running() as process:
        assert await asyncio.wait_for(process.wait(), 60) == 2
    last = agent.log.read_text().strip().splitlines()[-1]
    assert last.startswith("deepecg-agent: ")
    assert "no bundle at nowhere" in last
    assert "Traceback" not in agent.log.read_text()


def publish(folder: Path, key: Ed25519PrivateKey, *changes: tuple[str, str]) -> Path:
    """The shipped bundle with another name or version, signed by a key of the test's."""
    shutil.copytree(default_bundle(), folder)
    content = (folder / "manifest.json").read_text()
    for before, after in changes:
        content = content.replace(before, after)
    (folder / "manifest.json").write_text(content)
    (folder / "manifest.sig").write_bytes(sign(content.encode(), key))
    if not (public := folder.parent / "publisher.pub").exists():
        write_public_key(public, key.public_key())
    return folder


async def test_a_further_model_looks_once_and_again_on_request_and_never_alerts(
    tmp_path: Path, fibrillation: FloatArray
) -> None:
    folder = publish(tmp_path / "lvef", Ed25519PrivateKey.generate(), ('"deepecg-sl-demo"', '"lvef"'))
    start = time.time() - SECONDS - 5
    async with Receiver() as receiver:
        agent = Agent(tmp_path, receiver=receiver.port)
        tables = agent.config.read_text().replace("[engine]", '[engine]\ntrusted_keys = ["publisher.pub"]')
        missing = '[[models]]\nbundle = "not-there"\nevery = 60'
        agent.config.write_text(f"{tables}\n[[models]]\nbundle = {json.dumps(str(folder))}\nonce = true\n{missing}\n")
        async with agent.running() as process, aiohttp.ClientSession(f"http://127.0.0.1:{agent.page}") as session:
            await agent.healthy(process)

            async def state() -> Any:
                async with session.get("/api/state") as answer:
                    return await answer.json()

            async def answered(count: int) -> None:
                async with asyncio.timeout(60):
                    while f'deepecg_model_windows_total{{model="lvef"}} {count}.0' not in await agent.metrics():
                        await asyncio.sleep(0.1)

            async with asyncio.timeout(30):  # it is opened beside the work
                while not all(model["engine"] for model in (await state())["engines"]):
                    await asyncio.sleep(0.1)
            feed = hl7_feed(fibrillation, start)
            await send_hl7(agent.hl7, feed[:40])
            await answered(1)
            async with asyncio.timeout(60):  # the first model's answer may be on its way to the page still
                while not ((bed := (await state())["beds"][0])["findings"] and bed["models"][0]["findings"]):
                    await asyncio.sleep(0.1)
            assert bed["models"][0]["model"] == "lvef"
            assert bed["models"][0]["findings"][0]["label"] == bed["findings"][0]["label"]
            asked = await session.post(f"/api/beds/{bed['bed']}/request/lvef", headers={"X-DeepECG-Request": "1"})
            assert asked.status == 202
            async with asyncio.timeout(30):  # the line looks once a second whether somebody asks
                while '"model_requested"' not in agent.log.read_text():
                    await asyncio.sleep(0.05)
            await send_hl7(agent.hl7, feed[40:])
            await answered(2)
            await wait_for(receiver, "demo/ward/h1", "start")
            health = await (await session.get("/healthz")).json()
            assert health["status"] == "degraded"
            assert "there is no bundle at not-there" in health["reasons"]["models.not-there"]
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
        starts = [alert for alert in receiver.alerts if alert.phase == "start"]
        assert [alert.label for alert in starts] == ["Afib"], "one alert, of the first model"


async def test_the_active_bundle_is_served_and_an_older_one_no_more(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    shipped = json.loads((default_bundle() / "manifest.json").read_text())["version"]
    for version in ("0.9", "1.1"):
        publish(tmp_path / version, key, (f'"version": "{shipped}"', f'"version": "{version}"'))
    agent = Agent(tmp_path)
    trusting = agent.config.read_text().replace("[engine]", '[engine]\ntrusted_keys = ["publisher.pub"]')
    agent.config.write_text(trusting)
    store = Store(tmp_path, EngineSettings(trusted_keys=(tmp_path / "publisher.pub",)))
    store.install(tmp_path / "1.1")
    store.activate("deepecg-sl-demo")
    async with agent.inside():
        assert (await agent.state())["model"] == "deepecg-sl-demo/1.1"
    agent.config.write_text(trusting.replace("[engine]", '[engine]\nbundle = "0.9"'))
    with pytest.raises(
        (BundleError, StartError), match=r"deepecg-sl-demo/0\.9 is older than 1\.1, which was served here"
    ):
        async with agent.inside():
            pytest.fail("it has started")


async def test_an_engine_for_this_machine_is_asked_for_compiled_tried_and_promoted_on_a_live_ward(
    tmp_path: Path, publisher: Any, fibrillation: FloatArray
) -> None:
    """Agent, compiler and receiver, each as on the ward; the seconds of a trial made short."""
    # How far a network of random weights may differ in int8 is not what is tested.
    anything = {"probability_max": 1, "probability_p999": 1, "logit_max": 1, "flips_share": 1, "alerts_differ": 99}
    bundle = publisher.write(limits=anything)
    async with Receiver() as receiver:
        agent = Agent(tmp_path, receiver=receiver.port)
        text = agent.config.read_text().replace(
            "[engine]\n",
            f"[rollout]\npoll = 0.2\nshadow_seconds = 0\nwatch_seconds = 0\nwindows = 6\nslower = 1000\n[engine]\n"
            f'bundle = "{bundle}"\ntrusted_keys = ["{publisher.public}"]\n',
        )
        agent.config.write_text(text)
        request = tmp_path / "rebuild.request"
        async with agent.running() as process:
            await agent.healthy(process)
            assert 'deepecg_engine_fallbacks{model="ward"} 1.0' in await agent.metrics()
            async with asyncio.timeout(30):
                while not request.exists():
                    await asyncio.sleep(0.05)

            async def feed() -> None:
                start = time.time() - 86400
                while True:
                    await send_hl7(agent.hl7, hl7_feed(fibrillation, start))
                    start += SECONDS

            feeding = asyncio.create_task(feed())
            command = (sys.executable, "-m", "agent.cli", "rebuild", "--requested", "--config", str(agent.config))
            compiler = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            said, _ = await asyncio.wait_for(compiler.communicate(), 60)
            assert compiler.returncode == 0
            assert b"openvino-int8w-" in said
            assert not request.exists()
            async with asyncio.timeout(60):
                while 'deepecg_engine_trials_total{model="ward",outcome="kept"} 1.0' not in await agent.metrics():
                    assert not feeding.done(), feeding.result()
                    assert "rejected" not in (found := agent.log.read_text()), found
                    await asyncio.sleep(0.1)
            metrics = await agent.metrics()
            async with asyncio.timeout(10):  # the page is told once a second
                while (state := await agent.state())["engine"] != "openvino-int8w":
                    await asyncio.sleep(0.1)
            feeding.cancel()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
        assert 'deepecg_model_engine{engine="openvino-int8w",model="ward"} 1.0' in metrics
        assert "deepecg_windows_dropped_total{" not in metrics
        assert "has stood its trial" in state["engines"][0]["trial"]

        # None is doubled: each begins once and ends once, and no sooner than the one before it has ended.
        alerts: dict[str, list[Received]] = {}
        for message in receiver.alerts:
            if message.label == "Afib":
                alerts.setdefault(message.alert_id, []).append(message)
        assert alerts
        assert all([m.phase for m in messages] == ["start", "end"] for messages in alerts.values())
        spans = sorted((start.time or 0.0, end.time or 0.0) for start, end in alerts.values())
        assert all(later[0] >= earlier[1] for earlier, later in pairwise(spans))

        async with agent.running() as process:
            await agent.healthy(process)
            assert (await agent.state())["engine"] == "openvino-int8w", "and it serves from the next start on"
            assert not request.exists()
    log = [json.loads(line) for line in agent.log.read_text().splitlines() if line.startswith("{")]
    assert [entry["stage"] for entry in log if entry["event"] == "engine_trial"] == ["shadow", "watch", "kept"]
    assert [entry["engine"] for entry in log if entry["event"] == "rebuild_asked"] == ["openvino-int8w"]
