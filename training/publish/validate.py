"""Engines against the network in fp32 torch: the same windows through both, and whether they still do the same task.

    with windows_of(table, bundle.manifest, windows=1000, hours=4.0) as windows:
        found = validate(bundle, network_of(bundle), windows)
    print("\n".join(table_of(found)))

The windows are the bundle's golden ones, a sample of a dataset, and whole recordings in which alerts are counted with
the agent's persistence. The patients may be ones that the weights have seen: what is compared is two computations of
one function, not the function with the truth. Each engine runs in a process of its own (`training.publish.run_engine`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as safetensors_bytes
from tqdm import tqdm

from agent.core.bundle.limits import Parity
from agent.core.bundle.manifest import Engine, Label, Manifest
from agent.core.bundle.parity import flips, parity_of, shifts, sound
from agent.core.ecg import LEADS, FloatArray
from agent.core.preprocessing import prepare
from agent.engines.bundles.bundle import Bundle
from agent.engines.machine import this_machine
from agent.engines.select import misfit
from training.data import WindowTable
from training.defaults import HOURS, WINDOWS
from training.evaluation.alerts import Persistence, Track, alerts, unmatched
from training.evaluation.ranking import patient_weights, weighted_auroc
from training.evaluation.resources import machine as machine_in_words
from training.models.sl import sl_from_state
from training.models.ssl import Pretraining
from training.models.weights import build, fit, load_network
from training.publish.bundle import CONFIG, WEIGHTS, answers_of, parse_config
from training.publish.report import Auroc, Difference, Finding, Validation
from training.publish.run_engine import EngineRunError, Ran, run_engine
from training.publish.sample import choose, truth
from training.publish.serving_form import Classifier

LEAST_PATIENTS = 10
"""With and without a finding, for an AUROC whose change says anything."""
_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class ContinuousRecording:
    """A whole continuous recording."""

    name: str
    """Source and record."""
    index: NDArray[np.int64]
    """(m,) its windows among those that are compared, in order of time."""
    start: NDArray[np.float64]
    """(m,) seconds into the recording."""
    seconds: float
    """Length of a window."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """A dataset's windows that are compared; n of them."""

    path: Path
    """.npy, float32 (n, 12, T): prepared, in the network's units."""
    truth: NDArray[np.int8]
    """(n, n_labels)"""
    patient: NDArray[np.str_]
    """(n,)"""
    sources: Mapping[str, int]
    """Windows of each."""
    recordings: tuple[ContinuousRecording, ...]
    hours: float
    """Of the recordings."""


# ---- What is compared ------------------------------------------------------------------------------------------------


def network_of(bundle: Bundle, model: Path | None = None) -> Classifier:
    """The bundle's network: from a model folder, or from the weights inside.

    Raises:
        ValueError: there is none, or it is not the bundle's.
        FileNotFoundError: the folder is no model folder.
    """
    manifest = bundle.manifest
    if model is not None:
        net = load_network(model)
        content = safetensors_bytes({key: value.contiguous() for key, value in sorted(net.state_dict().items())})
    elif WEIGHTS in manifest.files:
        content = bundle.read(WEIGHTS)
        state = load_safetensors(content)
        if CONFIG in manifest.files:
            net = build(parse_config(bundle.read(CONFIG)))
            fit(net, state, WEIGHTS)
        else:
            net = sl_from_state(state)
    else:
        raise ValueError(f"{bundle.path} holds no {WEIGHTS}; name the model folder that it was compiled from: --model")
    if hashlib.sha256(content).hexdigest() != manifest.weights_sha256:
        raise ValueError(f"{model or WEIGHTS} is not the network of {manifest.model_id}; name the one that it is of")
    if isinstance(net, Pretraining):
        raise ValueError(f"{model or WEIGHTS} is a pretraining network; fine-tune it first")  # noqa: TRY004  (a file's)
    return net.eval()


@contextmanager
def windows_of(
    table: WindowTable, manifest: Manifest, *, windows: int = WINDOWS, hours: float = HOURS, seed: int = 0
) -> Iterator[Windows]:
    """Windows of a dataset as the manifest's network takes them, on the disk for as long as they are needed.

    Raises:
        ValueError: the dataset was prepared for other networks, or has no window for this one.
    """
    spec = manifest.input
    p = spec.preprocessing
    if table.preprocessing.model_copy(update={"gain": p.gain}) != p:
        raise ValueError(
            f"the dataset was not prepared as {manifest.model_id} takes its windows ({p.rate:g} Hz, {p.seconds:g} s, "
            f"{p.mode} filters); prepare one so: deepecg-train prepare"
        )
    alerting = [label.name for label in manifest.labels if label.rule is not None]
    chosen = choose(table, spec.required_leads, alerting, windows=windows, hours=hours, seed=seed)
    index = chosen.index
    if not len(index):
        raise ValueError(f"no window of the dataset has the leads that {manifest.model_id} needs; take another")
    silent = [i for i, lead in enumerate(LEADS) if lead not in spec.accepted_leads]
    with TemporaryDirectory(prefix="deepecg-") as folder:
        path = Path(folder) / "windows.npy"
        shape = (len(index), len(LEADS), round(p.rate * p.seconds))
        x = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for first in range(0, len(index), _BATCH):
            part, _ = table.batch(index[first : first + _BATCH])
            part[:, silent] = 0.0
            x[first : first + _BATCH] = part * np.float32(p.gain)
        del x  # written
        names, counts = np.unique(table.source[index], return_counts=True)
        yield Windows(
            path=path,
            truth=truth(table, index, manifest.labels),
            patient=table.patient[index],
            sources={table.sources[i]: int(n) for i, n in zip(names.tolist(), counts, strict=True)},
            recordings=tuple(
                ContinuousRecording(
                    name=f"{table.sources[table.source[index[one[0]]]]}/{table.record[index[one[0]]]}",
                    index=one,
                    start=table.start[index[one]].astype(np.float64),
                    seconds=p.seconds,
                )
                for one in chosen.recordings
            ),
            hours=sum(map(len, chosen.recordings)) * table.step / 3600,
        )


@contextmanager
def compared(
    table: WindowTable | None, manifest: Manifest, *, windows: int = WINDOWS, hours: float = HOURS
) -> Iterator[Windows]:
    """`windows_of` the dataset where there is one; without, the golden windows alone are compared."""
    if table is not None:
        with windows_of(table, manifest, windows=windows, hours=hours) as chosen:
            yield chosen
        return
    p = manifest.input.preprocessing
    with TemporaryDirectory(prefix="deepecg-") as folder:
        path = Path(folder) / "windows.npy"
        np.save(path, np.empty((0, len(LEADS), round(p.rate * p.seconds)), np.float32))
        yield Windows(path, np.empty((0, len(manifest.labels)), np.int8), np.empty(0, "U1"), {}, (), 0.0)


def _reference(net: Classifier, labels: Sequence[Label], path: Path, *, progress: bool) -> FloatArray:
    """(n, n_labels) answers of fp32 torch to prepared windows."""
    x = np.load(path, mmap_mode="r", allow_pickle=False)
    out = np.empty((len(x), len(labels)), np.float32)
    steps = range(0, len(x), _BATCH)
    for first in tqdm(steps, desc="fp32 torch", unit="batch", disable=not progress, mininterval=5):
        out[first : first + _BATCH] = answers_of(net, np.array(x[first : first + _BATCH]), labels)
    return out


# ---- The comparison --------------------------------------------------------------------------------------------------


def validate(
    bundle: Bundle, net: Classifier, windows: Windows, *, threads: int = 1, progress: bool = True
) -> Validation:
    """Hold every engine of the bundle that this machine can run against ``net``.

    Raises:
        ValueError: ``net`` does not give the golden answers.
    """
    manifest = bundle.manifest
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        p = manifest.input.preprocessing
        golden = answers_of(net, prepare(bundle.golden_windows, p.rate, p), manifest.labels)
        if (off := float(np.abs(golden - bundle.golden_probabilities).max())) > manifest.golden.tolerance:
            raise ValueError(f"fp32 torch is {off:.1e} away from the bundle's golden answers; compile it again")
        wanted = _reference(net, manifest.labels, windows.path, progress=progress)
        numbers = tqdm(range(len(manifest.engines)), desc="engines", unit="engine", disable=not progress, mininterval=5)
        found = _also_elsewhere(
            manifest.engines, [_examine(bundle, number, golden, wanted, windows, threads) for number in numbers]
        )
    finally:
        torch.set_num_threads(before)
    return Validation(
        model=manifest.model_id,
        machine=machine_in_words(),
        torch=torch.__version__,
        threads=threads,
        golden=len(golden),
        windows=len(wanted),
        sources=windows.sources,
        recordings=len(windows.recordings),
        hours=windows.hours,
        counted=tuple(manifest.labels[i].name for i in manifest.counted),
        limits=manifest.limits,
        engines=found,
    )


def _examine(
    bundle: Bundle, number: int, golden: FloatArray, wanted: FloatArray, windows: Windows, threads: int
) -> Finding:
    manifest = bundle.manifest
    entry = manifest.engines[number]
    name = f"{entry.flavour}-{entry.precision}"
    size = sum(manifest.files[file].size for file in entry.files) / 1e6
    if reason := misfit(entry, this_machine()):
        # What was measured where it does run stays true.
        return Finding(name, entry.library, size, not_run=reason, broken="", parity=entry.parity)
    try:
        ran = run_engine(bundle.path, number, windows.path, threads=threads)
    except EngineRunError as error:
        return Finding(name, entry.library, size, not_run="", broken=str(error).rstrip("."), parity=Parity())
    return _compare(manifest, entry, size, golden, wanted, ran, windows)


def _also_elsewhere(engines: Sequence[Engine], findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """A precision that fails wherever it was run is refused, too, where it could not be: the network has not got it."""
    passing = {e.precision for e, one in zip(engines, findings, strict=True) if not one.not_run and not one.broken}
    failing = {e.precision: one.engine for e, one in zip(engines, findings, strict=True) if one.broken}
    return tuple(
        replace(one, broken=f"{e.precision} fails as {failing[e.precision]}, and nothing here runs this engine")
        if one.not_run and e.precision in failing.keys() - passing and not one.parity.windows
        else one
        for e, one in zip(engines, findings, strict=True)
    )


def _compare(
    manifest: Manifest,
    entry: Engine,
    megabytes: float,
    golden: FloatArray,
    wanted: FloatArray,
    ran: Ran,
    windows: Windows,
) -> Finding:
    exact = entry.precision == "f32"
    counted = [manifest.labels[i] for i in manifest.counted]
    every, found = np.concatenate([golden, wanted]), np.concatenate([ran.golden, ran.answers])
    found = sound(every, found)
    answers = found[len(golden) :]
    auroc = _aurocs(manifest, wanted, answers, windows)
    replayed = _replay(manifest.labels, wanted, answers, windows)
    parity = parity_of(
        manifest,
        every,
        found,
        f32=exact,
        auroc_change=min((one.engine - one.fp32 for one in auroc.values()), default=None),
        alerts_differ=None if replayed is None else len(replayed[2]),
    )
    golden_max = float(shifts(golden, found[: len(golden)]).max())
    # The agent's self-test holds all labels to this, so an engine that fails it on the ward should fail it here.
    allowed = manifest.golden.tolerance if exact else manifest.limits.probability_max
    broken = manifest.limits.broken_by(parity)
    if not broken and golden_max > allowed:
        broken = f"an answer to a golden window is {golden_max:.3g} off, and the agent's self-test allows {allowed:.3g}"
    crossed = flips(counted, every[:, list(manifest.counted)], found[:, list(manifest.counted)]).sum(axis=0)
    return Finding(
        engine=f"{entry.flavour}-{entry.precision}",
        library=entry.library,
        megabytes=megabytes,
        not_run="",
        broken=broken,
        parity=parity,
        golden_max=golden_max,
        all_max=float(shifts(every, found).max()),
        flips={label.name: int(n) for label, n in zip(counted, crossed, strict=True)},
        auroc=auroc,
        alerts=None if replayed is None else replayed[0],
        moved=None if replayed is None else replayed[1],
        differences=() if replayed is None else replayed[2],
        start_seconds=ran.start_seconds,
        memory_mb=ran.memory_mb,
        milliseconds=ran.milliseconds,
    )


def _aurocs(manifest: Manifest, wanted: FloatArray, found: FloatArray, windows: Windows) -> dict[str, Auroc]:
    """Of each label that counts and has patients enough, with the weights of `training.evaluation.evidence`."""
    names, who = np.unique(windows.patient, return_inverse=True)
    out: dict[str, Auroc] = {}
    for i in manifest.counted:
        there, absent = windows.truth[:, i] == 1, windows.truth[:, i] == 0
        patients = len(np.unique(who[there]))
        if min(patients, len(np.unique(who[absent]))) < LEAST_PATIENTS:
            continue
        weights = patient_weights(there, who, len(names)), patient_weights(absent, who, len(names))
        out[manifest.labels[i].name] = Auroc(
            fp32=float(weighted_auroc(wanted[:, i], *weights)),
            engine=float(weighted_auroc(found[:, i], *weights)),
            patients=patients,
        )
    return out


def _replay(
    labels: Sequence[Label], wanted: FloatArray, found: FloatArray, windows: Windows
) -> tuple[int, int, tuple[Difference, ...]] | None:
    """Alerts of fp32, how many of them the engine has not to the window, and the differences; None: nothing alerts."""
    rules = [(i, label.name, label.rule) for i, label in enumerate(labels) if label.rule is not None]
    if not rules or not windows.recordings:
        return None
    count = moved = 0
    differences: list[Difference] = []
    for i, name, rule in rules:
        for recording in windows.recordings:
            here = recording.index
            one, other = (
                alerts(
                    Track("", recording.start, recording.seconds, p[here, i], windows.truth[here, i]),
                    rule.threshold,
                    Persistence.of(rule),
                )
                for p in (wanted, found)
            )
            count += len(one)
            moved += len(set(one) - set(other))
            for by, mine, theirs in (("fp32", one, other), ("engine", other, one)):
                differences += [
                    Difference(name, recording.name, by, float(recording.start[first]))
                    for first, _ in unmatched(mine, theirs)
                ]
    return count, moved, tuple(differences)
