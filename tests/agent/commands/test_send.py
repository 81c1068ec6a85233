"""``deepecg-agent send`` against the real thing: an agent in a process of its own, and its two sources in this one."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agent.commands.send import TEST_PATIENT, Feed, SendError, run
from agent.config import Config, load
from agent.core.ecg import Event, Samples
from agent.ops.metrics import Metrics, totals
from agent.ops.tls import TlsError, TlsSettings
from agent.sources.hl7.server import HL7Source
from agent.sources.mqtt import MqttSource

BED = "north/icu/7"


def ports(number: int) -> list[int]:
    """Free ports, no two the same."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    found = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return found


@asynccontextmanager
async def a_page(beds: list[dict[str, Any]] | None = None) -> AsyncIterator[int]:
    """What `send` asks of the page, where no whole agent is needed; its port."""

    async def state(_: web.Request) -> web.Response:
        return web.json_response({"beds": beds or []})

    app = web.Application()
    app.router.add_get("/api/state", state)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def config_of(**tables: Any) -> Config:
    return Config.model_validate({"sources": tables.pop("sources", {}), **tables})


async def command(*words: str, cwd: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli", "send", *words),
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


# ---- a whole agent -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def an_agent(config: Path) -> AsyncIterator[str]:
    """``deepecg-agent run``, once it is healthy; the page's address."""
    url = f"http://127.0.0.1:{load(config).station.port}"
    with (config.parent / "agent.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent.cli", "run", "--config", str(config)), stdout=log, stderr=log
        )
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(600):
                assert process.returncode is None, (config.parent / "agent.log").read_text()
                try:
                    async with session.get(f"{url}/healthz") as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
        yield url
    finally:
        process.kill()
        await process.wait()


async def test_an_agent_shows_what_is_sent_over_both_transports(mosquitto: int, tmp_path: Path) -> None:
    hl7, page = ports(2)
    config = tmp_path / "agent.toml"
    config.write_text(
        f"[agent]\nstate_dir = {json.dumps(str(tmp_path))}\n"
        f'[sources.mqtt]\nhost = "127.0.0.1"\nport = {mosquitto}\n'
        f"[sources.hl7]\nport = {hl7}\n"
        f"[station]\nport = {page}\nshow_patients = true\n"
    )
    common = ("--config", str(config), "--seconds", "14")
    async with an_agent(config) as url:
        (m_code, m_out, m_err), (h_code, h_out, h_err) = await asyncio.gather(
            command(*common, "--over", "mqtt", "--bed", "north/icu/m", "--heart-rate", "72", cwd=tmp_path),
            command(*common, "--over", "hl7", "--bed", "north/icu/h", "--heart-rate", "96", cwd=tmp_path),
        )
        async with aiohttp.ClientSession() as session, session.get(f"{url}/api/state") as answer:
            tiles = {tile["bed"]: tile for tile in (await answer.json())["beds"]}
        again = await command(*common, "--over", "mqtt", "--bed", "north/icu/m", cwd=tmp_path)
    assert (m_code, h_code) == (0, 0), m_err + h_err
    assert tiles["north/icu/m"]["rate"] == pytest.approx(72, abs=4)
    assert tiles["north/icu/h"]["rate"] == pytest.approx(96, abs=5)
    assert {tile["patient"] for tile in tiles.values()} <= {None, "TEST, TEST"}
    assert tiles["north/icu/h"]["patient"] == "TEST, TEST"
    mqtt, over_hl7 = (json.loads(out.splitlines()[-1]) for out in (m_out, h_out))
    assert mqtt["messages"] == mqtt["accepted"] == over_hl7["messages"] == over_hl7["accepted"] == 14
    assert mqtt["shown"] is over_hl7["shown"] is True
    assert mqtt["rate_shown"] == pytest.approx(mqtt["rate_sent"], abs=4)
    assert m_out.splitlines()[:-1] == ["    5  PUBACK", "   10  PUBACK", "   14  PUBACK"]
    assert h_out.splitlines()[:-1] == [f"{n:>5}  CA" for n in range(1, 15)]
    assert again[0] == 2
    assert again[2].splitlines()[-1].startswith("deepecg-agent: north/icu/m has a live feed; choose a bed without")


# ---- its parts ---------------------------------------------------------------------------------------------------


async def test_it_uses_the_topics_of_the_configuration_and_names_its_patient(mosquitto: int) -> None:
    sources = {
        "mqtt": {
            "host": "127.0.0.1",
            "port": mosquitto,
            "topics": ["ecg/{unit}/{bed}"],
            "site": "north",
            "beds": ["north/icu/*"],
        }
    }
    queue: asyncio.Queue[Event] = asyncio.Queue()
    async with a_page() as port:
        config = config_of(sources=sources, station={"port": port})
        assert config.sources.mqtt is not None
        async with MqttSource(config.sources.mqtt, Metrics()) as source:
            await source.subscribed.wait()
            task = asyncio.create_task(source.run(queue))
            summary = await run(config, Feed(BED, "mqtt", seconds=2, payload="json"))
            block = await queue.get()
            task.cancel()
    assert summary["over"] == "mqtt/json"
    assert summary["accepted"] == 2
    assert summary["shown"] is False, "the page that was asked shows nothing"
    assert isinstance(block, Samples)
    assert (block.bed, block.device) == (BED, "monitor")
    assert block.encounter is not None
    assert block.encounter.patient_ids == TEST_PATIENT.patient_ids


@pytest.mark.parametrize(
    ("feed", "sources", "sentence"),
    [
        (Feed("icu/7", "mqtt"), {"mqtt": {}}, "'icu/7' is no bed; write it as site/unit/bed"),
        (Feed(BED, "mqtt"), {"hl7": {}}, "has no [sources.mqtt] table"),
        (Feed(BED, "hl7"), {"mqtt": {}}, "has no [sources.hl7] table"),
        (Feed(BED, "mqtt"), {"mqtt": {"beds": ["south/*"]}}, "add it to `beds` in [sources.mqtt]"),
        (Feed(BED, "mqtt"), {"mqtt": {"topics": ["ecg/{unit}/{bed}"], "site": "south"}}, "no topic of [sources.mqtt]"),
        (Feed(BED, "hl7", dialect="morse"), {"hl7": {}}, "no simulated monitor speaks 'morse'"),
        (Feed(BED, "hl7", dialect="ge"), {"hl7": {}}, 'add "icu-7" = "north/icu/7" to [sources.hl7.beds.lookup]'),
        (Feed(BED, "hl7"), {"hl7": {"beds": {"only_lookup": True}}}, 'for no bed; add "icu^^7^north"'),
    ],
)
async def test_what_the_agent_would_not_know_is_one_sentence(
    feed: Feed, sources: dict[str, Any], sentence: str
) -> None:
    async with a_page() as port:
        with pytest.raises(SendError) as error:
            await run(config_of(sources=sources, station={"port": port}), feed)
    assert sentence in str(error.value)


async def test_without_the_page_nobody_can_say_that_the_bed_is_free() -> None:
    (nobody,) = ports(1)
    config = config_of(sources={"hl7": {"port": nobody}}, station={"port": nobody})
    with pytest.raises(SendError, match="start the agent, or give --anyway"):
        await run(config, Feed(BED, "hl7"))


async def test_a_bed_with_a_live_feed_is_left_alone_unless_told_otherwise() -> None:
    (nobody,) = ports(1)
    async with a_page([{"bed": BED, "age": 3.0, "rate": 60}]) as port:
        config = config_of(sources={"hl7": {"port": nobody}}, station={"port": port})
        with pytest.raises(SendError, match="has a live feed"):
            await run(config, Feed(BED, "hl7"))
        with pytest.raises(SendError, match="cannot be reached"):
            await run(config, Feed(BED, "hl7", anyway=True))
    async with a_page([{"bed": BED, "age": 11.0, "rate": None}, {"bed": "other/bed/1", "age": 1.0}]) as port:
        config = config_of(sources={"hl7": {"port": nobody}}, station={"port": port})
        with pytest.raises(SendError, match="is it running, and is this its HL7 port"):
            await run(config, Feed(BED, "hl7"))


async def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    (nobody,) = ports(1)
    mqtt = {"host": "127.0.0.1", "port": nobody, "connect_timeout": 0.3}
    with pytest.raises(SendError, match="lets nobody in"):
        await run(config_of(sources={"mqtt": mqtt}), Feed(BED, "mqtt", anyway=True))


async def test_a_refusal_is_told_counted_and_the_exit_status(tmp_path: Path) -> None:
    """The agent's own grants: this machine may speak for other beds only."""
    hl7 = {"port": 0, "grants": [{"address": "127.0.0.0/8", "beds": ["south/*"]}]}
    metrics = Metrics()
    settings = config_of(sources={"hl7": hl7}).sources.hl7
    assert settings is not None
    async with HL7Source(settings, metrics) as source, a_page() as port:
        task = asyncio.create_task(source.run(asyncio.Queue[Event]()))
        config = tmp_path / "agent.toml"
        config.write_text(f"[sources.hl7]\nport = {source.port}\n[station]\nport = {port}\n")
        options = ("--config", str(config), "--over", "hl7", "--bed", BED, "--seconds", "2")
        code, out, err = await command(*options, cwd=tmp_path)
        task.cancel()
    assert code == 1, err
    *answers, last = out.splitlines()
    assert len(answers) == 2
    assert answers[0] == "    1  CR     207 this sender may not speak for this bed; add it to `grants`"
    summary = json.loads(last)
    assert summary["refused"] == {"CR": 2}
    assert summary["accepted"] == 0
    assert totals(metrics.refused) == {"hl7/not_granted": 2}


async def test_tls_with_the_senders_certificate(authorities: Callable[[str], Any], tmp_path: Path) -> None:
    """The agent knows the sender by its certificate; a sender of another authority is not let in."""
    ward = authorities("ward authority")
    server, monitor = ward.issue("agent.hospital"), ward.issue("monitor-7")
    hl7 = {
        "port": 0,
        "tls": server.model_dump(),
        "grants": [{"certificate": "monitor-7", "beds": [BED]}],
    }
    settings = config_of(sources={"hl7": hl7}).sources.hl7
    assert settings is not None
    queue: asyncio.Queue[Event] = asyncio.Queue()
    async with HL7Source(settings, Metrics()) as source, a_page() as port:
        task = asyncio.create_task(source.run(queue))
        config = config_of(sources={"hl7": hl7 | {"port": source.port}}, station={"port": port})
        feed = Feed(BED, "hl7", seconds=1, tls=TlsSettings(certificate=monitor.certificate, key=monitor.key))
        summary = await run(config, feed)
        stranger = authorities("another authority").issue("monitor-7", "stranger")
        with pytest.raises(SendError, match="cannot be reached"):
            await run(config, replace(feed, tls=stranger))
        with pytest.raises(TlsError):
            await run(config, replace(feed, tls=TlsSettings(certificate=tmp_path / "no", key=tmp_path / "no")))
        task.cancel()
    assert summary["accepted"] == 1
    assert queue.qsize() == 1


async def test_a_key_without_its_certificate_is_one_sentence(tmp_path: Path) -> None:
    options = ("--config", "agent.toml", "--over", "hl7", "--bed", BED, "--key", os.devnull)
    code, _, err = await command(*options, cwd=tmp_path)
    assert code == 2
    assert err.strip() == "deepecg-agent: --certificate and --key belong together; give both or neither"
