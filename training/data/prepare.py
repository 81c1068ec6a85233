"""From archives to a dataset, one recording at a time: read, check, fingerprint, cut, preprocess, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from agent.core.preprocessing import Preprocessing
from training.data.beside import TABLE as BESIDE
from training.data.beside import Beside
from training.data.checks import check
from training.data.duplicates import fingerprint
from training.data.readers import FORMATS
from training.data.readers.files import table_file
from training.data.recording import Labels, Pending, Recording, Rejected, Source, UnreadableError
from training.data.store import Store, salt_of
from training.data.windows import prepare_windows
from training.defaults import STEP_SECONDS

MILLIVOLTS = 1.0
"""Gain of a dataset's preprocessing: the table is in mV, the network's own gain comes after it."""

UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, ArithmeticError)
"""What the libraries raise at a damaged file, SyntaxError (XML) apart, which readers turn into ValueError: such a file
is listed as unreadable, and the next is read. MemoryError and the like end the run."""


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """What a dataset depends on beside its sources."""

    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(gain=MILLIVOLTS))
    step: float = STEP_SECONDS
    """Seconds from one window of a long recording to the next."""
    labels_of_report: Callable[[str], Labels] | None = None
    """Fills labels that a source leaves unknown from its reports' text (`training.labels.labels_of_report`)."""


def prepare(
    dataset: Path, sources: Iterable[Source], settings: DatasetSettings, *, progress: bool = True
) -> Mapping[str, int]:
    """Write the dataset, or go on with one that was interrupted; how many recordings came to what end in this run.

    Recordings are taken one by one, so memory does not grow with the archive. The outcome depends on the sources and
    the settings alone, however often the run was killed.

    Raises:
        ValueError: the settings make no window, two sources have one name, or the dataset was begun with others.
        FileNotFoundError: a source's folder does not exist.
    """
    sources = tuple(sources)
    _validate(sources, settings)
    if any(FORMATS[source.format].personal or table_file(source.folder, BESIDE) for source in sources):
        salt = salt_of(dataset)
        sources = tuple(replace(source, salt=salt) for source in sources)
    p = settings.preprocessing
    about = {
        "preprocessing": p.model_dump(mode="json"),
        "step": settings.step,
        "labels_from_reports": settings.labels_of_report is not None,
        "sources": [[source.name, source.format] for source in sources],
    }
    outcome: Counter[str] = Counter()
    licences = {source: FORMATS[source.format].licence for source in sources}
    with Store(dataset, round(p.rate * p.seconds), about, licences) as store:
        if store.complete:
            store.tidy()
            return outcome
        for number, source in islice(enumerate(sources), store.source, None):
            taken = store.taken if number == store.source else 0
            pending = islice(FORMATS[source.format].read(source), taken, None)
            bar = tqdm(pending, source.name, initial=taken, unit="rec", mininterval=5, disable=not progress)
            beside = Beside(source)
            for count, one in enumerate(bar, start=taken + 1):
                outcome[_take(store, source, one, beside, settings)] += 1
                store.done(number, count)
        store.finish(len(sources))
    return outcome


def _validate(sources: tuple[Source, ...], settings: DatasetSettings) -> None:
    names = Counter(source.name for source in sources)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"two sources are called {twice[0]!r}; give one another name: --source NAME:FORMAT=FOLDER")
    for source in sources:
        if source.format not in FORMATS:
            raise ValueError(f"there is no format {source.format!r}; take one of {', '.join(FORMATS)}")
        if not source.folder.is_dir():
            raise FileNotFoundError(f"there is no folder {source.folder}")
    if settings.step <= 0:
        raise ValueError("the step between two windows must be more than 0 s")
    if settings.preprocessing.gain != MILLIVOLTS:
        raise ValueError("a dataset is in mV: its preprocessing has the gain 1")


def _take(store: Store, source: Source, pending: Pending, beside: Beside, settings: DatasetSettings) -> str:
    """Bring one recording into the store; ``used``, or the reason why not."""
    item = load(source, pending)
    p = settings.preprocessing
    if isinstance(item, Recording):
        item = check(item, p.seconds) or beside.complete(item, pending.name or pending.record)
    if isinstance(item, Recording) and (print_ := fingerprint(item)) is not None:
        first = store.prints.see(item, print_)
        if first is not None:
            store.prints.same_person(first.patient, item.patient)
            item = Rejected(item.source, item.record, "duplicate", f"same signal as {first.name}")
    if isinstance(item, Rejected):
        store.reject(item)
        return item.reason
    if settings.labels_of_report is not None and item.report:
        labels = np.where(item.labels < 0, settings.labels_of_report(item.report), item.labels)
        item = replace(item, labels=labels.astype(np.int8))
    windows = prepare_windows(item, p, settings.step)
    first_window = next(windows, None)
    if first_window is None:
        store.reject(Rejected(item.source, item.record, "invalid", "no window in which any lead is whole"))
        return "invalid"
    store.add(item)
    for window in chain([first_window], windows):
        store.add_window(window)
    return "used"


def load(source: Source, pending: Pending) -> Recording | Rejected:
    """Read a recording; a file that cannot be read is a reason, not an end."""
    try:
        return pending.load()
    except UNREADABLE as error:
        # A library may quote a hospital's file in its error: of such a format only our own sentences go on.
        told = str(error) if isinstance(error, UnreadableError) or not FORMATS[source.format].personal else ""
        return Rejected(source.name, pending.record, "unreadable", f"{type(error).__name__}: {told}"[:300])


def recordings(source: Source, seconds: float = 10.0) -> Iterator[Recording | Rejected]:
    """Every usable recording of a source, and every unusable one with the reason; duplicates are not looked for."""
    for pending in FORMATS[source.format].read(source):
        item = load(source, pending)
        yield item if isinstance(item, Rejected) else check(item, seconds) or item
