"""Feeds: what a bed-second costs from a message's bytes to the window. No socket, no inference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agent.bench.measure import BenchError, Numbers
from agent.core.ecg import LEADS, FloatArray, Samples, Window
from agent.core.hl7 import mllp
from agent.core.hl7.acknowledgement import acknowledge, answers
from agent.core.hl7.decode import decode as decode_hl7
from agent.core.hl7.patient import BedMap
from agent.core.mqtt import decode as mqtt
from agent.core.mqtt.binary import BINARY_TYPE, encode_binary
from agent.core.mqtt.block import ecg_block
from agent.core.mqtt.document import CBOR_TYPE, JSON_TYPE, encode_cbor, encode_json
from agent.core.mqtt.topic import TopicTemplate
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.windower import Windower
from agent.engines.bundles.bundle import Bundle
from agent.simulator.ecg import Rhythm, synthesize
from agent.simulator.monitors import CADENCE, bed_lookup, hl7_message
from agent.sources.hl7.settings import HL7SourceSettings

_BEDS = 16
_SECONDS = 40
_RATE = 500.0
_EPOCH = 1_700_000_000.0
_READ = 65536


def feeds(bundle: Bundle) -> Numbers:
    """Processor milliseconds per bed-second from a message's bytes to the window; no socket, no inference.

    Twelve leads at 500 Hz, one message a second (GE's own 6 s every 5.5 s), sixteen beds.
    """
    p = bundle.manifest.input.preprocessing
    windows = WindowingSettings(seconds=round(p.seconds))
    beds = [f"site/icu/bed{i}" for i in range(_BEDS)]
    signal = synthesize(Rhythm.SINUS, _SECONDS + 10.0, _RATE, LEADS, seed=1)
    results: Numbers = {}
    template = TopicTemplate()
    for name, encode, content_type in (
        ("mqtt_binary", encode_binary, BINARY_TYPE),
        ("mqtt_cbor", encode_cbor, CBOR_TYPE),
        ("mqtt_json", encode_json, JSON_TYPE),
    ):
        rounds = [
            [
                (template.topic(bed, "monitor"), encode(_block(bed, signal, second)))
                for bed in beds
            ]
            for second in range(_SECONDS)
        ]  # fmt: skip

        def mqtt_samples(
            message: tuple[str, bytes], received: float, content_type: str = content_type
        ) -> Iterator[Samples]:
            yield mqtt.decode(message[0], message[1], content_type, template, received)

        results[name] = _feed(rounds, mqtt_samples, windows, 1.0)

    dialects = HL7SourceSettings().dialects()
    for dialect, (seconds, every) in CADENCE.items():
        lookup = BedMap(lookup={k: v for bed in beds for k, v in bed_lookup(dialect, bed).items()})
        frames = [
            [mllp.encode(_hl7(dialect, bed, signal, number, seconds, every)) for bed in beds]
            for number in range(int(_SECONDS / every))
        ]

        def hl7_samples(frame: bytes, received: float, lookup: BedMap = lookup) -> Iterator[Samples]:
            decoder = mllp.Decoder()
            for first in range(0, len(frame), _READ):
                for message in decoder.feed(frame[first : first + _READ]):
                    decoded = decode_hl7(message, dialects, received, beds=lookup)
                    for code in answers(decoded.header, decoded.verdict):
                        acknowledge(decoded.header, code, control_id="1", created=_EPOCH)
                    yield from (event for event in decoded.events if isinstance(event, Samples))

        results[f"hl7_{dialect}"] = _feed(frames, hl7_samples, windows, every)
    return results


def _block(bed: str, signal: FloatArray, second: int) -> Samples:
    n = int(_RATE)
    values = signal[:, second * n : (second + 1) * n]
    return ecg_block(
        bed, "monitor", dict(zip(LEADS, values, strict=True)), _RATE, start=_EPOCH + second, sequence=second
    )


def _hl7(dialect: str, bed: str, signal: FloatArray, number: int, seconds: float, every: float) -> bytes:
    first = int(number * every * _RATE)
    values = signal[:, first : first + int(seconds * _RATE)]
    return hl7_message(dialect, bed, LEADS, values, _RATE, _EPOCH + number * every, number)


def _feed(
    rounds: Sequence[Sequence[Any]],
    samples_of: Callable[[Any, float], Iterator[Samples]],
    settings: WindowingSettings,
    seconds: float,
) -> Numbers:
    windower = Windower(settings)
    costs, windows = [], 0
    for number, messages in enumerate(rounds):
        received = number * seconds  # as they would come: dialects without times go by it
        began = time.process_time()
        for message in messages:
            for samples in samples_of(message, received):
                windows += sum(isinstance(item, Window) for item in windower.push(samples))
        costs.append(1e3 * (time.process_time() - began) / (len(messages) * seconds))
    # The mean of the later rounds: a window's cutting falls into every fifth second, and belongs in.
    steady = costs[len(costs) // 4 :]
    expected = _BEDS * ((len(rounds) * seconds - settings.seconds) // settings.stride)
    if windows < expected:
        raise BenchError(f"the feed gave {windows} windows instead of {expected:g}; the benchmark is out of date.")
    return {
        "cpu_ms_per_bed_second": round(statistics.fmean(steady), 4),
        "bytes_per_message": len(rounds[0][0] if isinstance(rounds[0][0], bytes) else rounds[0][0][1]),
        "windows": windows,
    }
