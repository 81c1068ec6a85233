"""``deepecg-agent send``: play a test feed at an installed agent, so that it can be tried before a monitor is there.

Broker, topics, ports, certificates and beds come from the agent's own configuration; the signal is the project's
synthetic ECG. The feed calls its patient TEST. It is sent to no bed that has a live feed, because the agent would take
it for another patient in that bed, and would clear what it knows of the real one.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import aiohttp
import typer

from agent.config import Config, load
from agent.core.beats.rate import heart_rate
from agent.core.ecg import LEADS, Encounter, Lead
from agent.core.errors import DeepECGError
from agent.mqtt.link import MqttLink
from agent.ops.logs import configure_logging
from agent.ops.metrics import Metrics
from agent.ops.tls import TlsSettings, client_context
from agent.simulator.ecg import Rhythm, synthesize
from agent.simulator.monitors import CADENCE, location
from agent.simulator.players import Answer, PayloadKind, Signal, Tally, play_hl7, play_mqtt
from agent.sources.hl7.settings import HL7SourceSettings
from agent.sources.mqtt_settings import MqttSourceSettings
from agent.station.settings import StationSettings

TEST_PATIENT = Encounter(patient_ids=("TEST^^^DEEPECG^PI",), family_name="TEST", given_name="TEST")
"""Who lies in a bed that is fed by this command. GE's and Mindray's XH80X dialects name no patient at all."""
TEST_DEVICE = "TEST"
"""The device of a feed over MQTT."""

_RATE = 250.0
_LONGEST = 600.0
"""Seconds of signal that are made; a longer feed begins again."""
_TOLD_EVERY = 5
"""The broker's acknowledgements are told so many at a time."""
_LOOKS = 15
"""Looks at the page, five a second, in which it must show what was sent."""

Transport = Literal["mqtt", "hl7"]


class SendError(DeepECGError):
    """The feed cannot be sent; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What is sent, and as whom."""

    bed: str
    over: Transport
    rhythm: Rhythm = Rhythm.SINUS
    seconds: float = 60.0
    heart_rate: float | None = None
    dialect: str = "philips"
    payload: PayloadKind = "binary"
    host: str = ""
    """Where the agent or its broker is reached; empty: where the configuration says, or on this machine."""
    username: str = ""
    password_file: Path | None = None
    tls: TlsSettings | None = None
    """Whom to trust and who we are, where that is not what the configuration says of the agent."""
    anyway: bool = False
    """Send even to a bed with a live feed, and even where the page does not answer."""


def send(
    config: Annotated[Path, typer.Option("--config", help="The agent's own TOML configuration.")],
    over: Annotated[Transport, typer.Option(help="To the broker, or to the agent's HL7 port.")],
    bed: Annotated[str, typer.Option(help="site/unit/bed; one without a patient.")],
    rhythm: Annotated[Rhythm, typer.Option(help="What the synthetic ECG shows.")] = Rhythm.SINUS,
    seconds: Annotated[float, typer.Option(min=1, help="How long to send.")] = 60,
    heart_rate: Annotated[float | None, typer.Option(min=20, max=250, help="Beats a minute.")] = None,
    dialect: Annotated[str, typer.Option(help=f"For HL7, one of {', '.join(CADENCE)}.")] = "philips",
    payload: Annotated[PayloadKind, typer.Option(help="For MQTT.")] = "binary",
    host: Annotated[str, typer.Option(help="Where the broker or agent is reached; default: as configured.")] = "",
    username: Annotated[str, typer.Option(help="For the broker; default: the agent's own.")] = "",
    password_file: Annotated[Path | None, typer.Option(help="File with that user's password.")] = None,
    ca: Annotated[
        Path | None, typer.Option(help="Authority of the server's certificate; default: as configured.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="The sender's certificate; default: the agent's own.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="That certificate's key.")] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Even to a bed with a live feed, or where the page does not answer.")
    ] = False,
) -> None:
    """Play a test feed at an installed agent: synthetic ECG for one bed, its patient called TEST.

    Each answer is printed. The last line is JSON: what was sent, what was refused, and what the agent's page shows of
    it. Exit status 1 when something was refused or is not shown.
    """
    configure_logging("warning", "console")
    try:
        if (certificate is None) != (key is None):
            raise SendError("--certificate and --key belong together; give both or neither")
        tls = TlsSettings(ca=ca, certificate=certificate, key=key) if ca or certificate else None
        feed = Feed(
            bed, over, rhythm, seconds, heart_rate, dialect, payload, host, username, password_file, tls, anyway
        )
        summary = asyncio.run(run(load(config), feed))
    except DeepECGError as error:
        typer.echo(f"deepecg-agent: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(summary))
    if summary["accepted"] != summary["messages"] or summary["shown"] is False:
        raise typer.Exit(1)


async def run(config: Config, feed: Feed) -> dict[str, Any]:
    """Send the feed; the summary.

    Raises:
        SendError: the configuration has no such source, the bed cannot be had, or nobody is there.
        TlsError: the certificates cannot be used.
    """
    _check_bed(config, feed)
    page = _Page(config.station)
    await page.check_free(feed)
    made = min(max(feed.seconds, 10.0), _LONGEST)
    signal = Signal(
        LEADS, _RATE, synthesize(feed.rhythm, made, _RATE, seed=_seed(feed.bed), heart_rate=feed.heart_rate)
    )
    tally = Tally()
    began = time.monotonic()
    played = await (_over_mqtt if feed.over == "mqtt" else _over_hl7)(config, feed, signal, tally)
    sent = signal.cut(max(0, round((played - 12) * _RATE)), round(min(played, 12) * _RATE))
    tile = await page.shows(feed.bed)
    refused = sum(tally.refused.values())
    return {
        "over": f"{feed.over}/{feed.payload if feed.over == 'mqtt' else feed.dialect}",
        "bed": feed.bed,
        "rhythm": feed.rhythm.value,
        "seconds": round(time.monotonic() - began, 1),
        "messages": tally.sent,
        "accepted": tally.sent - refused - tally.failed,
        "refused": tally.refused,
        "unanswered": tally.failed,
        "rate_sent": _rounded(heart_rate(sent[LEADS.index(Lead.II)], _RATE)),
        "rate_shown": _rounded(tile["rate"]) if tile else None,
        "shown": tile is not None if page.answers else None,
    }


def _check_bed(config: Config, feed: Feed) -> None:
    """Whether the agent would know the bed from what the feed says of it."""
    if feed.bed.count("/") != 2 or not all(feed.bed.split("/")):
        raise SendError(f"{feed.bed!r} is no bed; write it as site/unit/bed")
    if feed.over == "mqtt":
        mqtt = _mqtt(config)
        _topic(mqtt, feed.bed)
        if not any(fnmatchcase(feed.bed, pattern) for pattern in mqtt.beds):
            raise SendError(f"this broker may not speak for {feed.bed}; add it to `beds` in [sources.mqtt]")
        return
    if feed.dialect not in CADENCE:
        raise SendError(f"no simulated monitor speaks {feed.dialect!r}; choose one of {', '.join(CADENCE)}")
    said = location(feed.dialect, feed.bed)
    if (found := _hl7(config).beds.bed(said)) != feed.bed:
        raise SendError(
            f"the agent would take {said!r}, which this dialect says of {feed.bed}, for "
            f"{found or 'no bed'}; add {json.dumps(said)} = {json.dumps(feed.bed)} to [sources.hl7.beds.lookup]"
        )


async def _over_mqtt(config: Config, feed: Feed, signal: Signal, tally: Tally) -> float:
    """Seconds of signal that were sent."""
    agents = _mqtt(config)
    change: dict[str, Any] = {"client_id": f"deepecg-send-{os.getpid()}", "status_topic": ""}
    if feed.host:
        change["host"] = feed.host
    if feed.username:
        change |= {"username": feed.username, "password_file": feed.password_file}
    if feed.tls:
        change["tls"] = _client_tls(agents.tls, feed)
    settings = agents.model_copy(update=change)
    topic = _topic(agents, feed.bed)
    async with MqttLink(settings, Metrics(), "send") as link:
        try:
            await asyncio.wait_for(link.connected.wait(), 2 * settings.connect_timeout)
        except TimeoutError:
            at = f"{settings.host}:{settings.port}"
            raise SendError(f"the broker at {at} lets nobody in; look after [sources.mqtt] and the broker") from None
        typer.echo(f"publishing to {topic} at {settings.host}:{settings.port}, a message a second", err=True)
        begin = time.time()
        answers = play_mqtt(link, topic, feed.bed, signal, feed.payload, begin, TEST_PATIENT)
        number = max(1, int(feed.seconds))
        await _tell(answers, number, tally, _TOLD_EVERY)
        return float(number)


async def _over_hl7(config: Config, feed: Feed, signal: Signal, tally: Tally) -> float:
    """Seconds of signal that were sent."""
    settings = _hl7(config)
    host, port = feed.host or _reached(settings.host), settings.port
    context: ssl.SSLContext | None = None
    if settings.tls is not None:
        # The agent's own address on this machine is in no certificate; whoever names a host wants it checked.
        tls = _client_tls(settings.tls, feed).model_copy(update={"check_hostname": bool(feed.host)})
        context = client_context(tls)
    length, cadence = CADENCE[feed.dialect]
    number = max(1, int((feed.seconds - length) / cadence) + 1)
    typer.echo(f"sending {feed.dialect} to {host}:{port}, a message every {cadence:g} s", err=True)
    answers = play_hl7(host, port, feed.dialect, feed.bed, signal, TEST_PATIENT, time.time(), context)
    try:
        await _tell(answers, number, tally, 1)
    except OSError as error:
        if not tally.sent:
            raise SendError(
                f"the agent at {host}:{port} cannot be reached ({error}); is it running, and is this its HL7 port?"
            ) from error
        tally.add(Answer(False, "", str(error)))
    return length + cadence * (number - 1)


async def _tell(answers: AsyncGenerator[Answer, None], number: int, tally: Tally, every: int) -> None:
    """Count and print ``number`` answers: those that are good ``every`` so many, the others each."""
    async with aclosing(answers):
        async for answer in answers:
            tally.add(answer)
            if not answer.accepted:
                typer.echo(f"{tally.sent:>5}  {answer.code or 'none':<6} {answer.text}")
            elif tally.sent % every == 0 or tally.sent == number:
                typer.echo(f"{tally.sent:>5}  {answer.code}")
            if tally.sent == number:
                return


class _Page:
    """The agent's own page, asked whether a bed is free and what is shown there."""

    def __init__(self, settings: StationSettings) -> None:
        host = _reached(settings.host)
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
        self._stale = settings.stale_after
        self.answers = False

    async def check_free(self, feed: Feed) -> None:
        """Raises SendError where the bed has a live feed, or where nobody can say."""
        tile = await self._tile(feed.bed)
        if feed.anyway:
            return
        if not self.answers:
            raise SendError(
                f"the agent's page does not answer at {self._url}, so nobody can say whether {feed.bed} is free; "
                "start the agent, or give --anyway"
            )
        if tile is not None:
            raise SendError(
                f"{feed.bed} has a live feed; choose a bed without a monitor, or wait {self._stale:g} s after the last "
                "test"
            )

    async def shows(self, bed: str) -> dict[str, Any] | None:
        """The bed as the page shows it, once it does; None where it does not."""
        for _ in range(_LOOKS):
            if (tile := await self._tile(bed)) is not None or not self.answers:
                return tile
            await asyncio.sleep(0.2)
        return None

    async def _tile(self, bed: str) -> dict[str, Any] | None:
        """The bed's tile where it has a live feed."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(f"{self._url}/api/state") as answer,
            ):
                state: dict[str, Any] = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            self.answers = False
            return None
        self.answers = True
        for tile in state["beds"]:
            if tile["bed"] == bed and tile["age"] is not None and tile["age"] <= self._stale:
                found: dict[str, Any] = tile
                return found
        return None


def _mqtt(config: Config) -> MqttSourceSettings:
    if config.sources.mqtt is None:
        raise SendError("the configuration has no [sources.mqtt] table; add it, or give --over hl7")
    return config.sources.mqtt


def _hl7(config: Config) -> HL7SourceSettings:
    if config.sources.hl7 is None:
        raise SendError("the configuration has no [sources.hl7] table; add it, or give --over mqtt")
    return config.sources.hl7


def _topic(settings: MqttSourceSettings, bed: str) -> str:
    """The topic by which the agent knows the bed."""
    for template in settings.templates():
        topic = template.topic(bed, TEST_DEVICE)
        address = template.match(topic)
        if address is not None and address.bed == bed:
            return topic
    raise SendError(f"no topic of [sources.mqtt] can say {bed}; its site and unit have to be the configured ones")


def _client_tls(agents: TlsSettings | None, feed: Feed) -> TlsSettings:
    """The sender's side: what the command line gives, and else what the agent has."""
    agents, given = agents or TlsSettings(), feed.tls or TlsSettings()
    own = given if given.certificate else agents
    return agents.model_copy(
        update={
            "ca": given.ca or agents.ca,
            "certificate": own.certificate,
            "key": own.key,
            "key_password_file": own.key_password_file,
        }
    )


def _reached(host: str) -> str:
    """Where a server that listens on ``host`` is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def _seed(bed: str) -> int:
    """Another heart for another bed, the same one each time."""
    return sum(bed.encode())


def _rounded(rate: float | None) -> int | None:
    return None if rate is None else round(rate)
