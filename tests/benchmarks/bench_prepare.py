"""Does preparing a dataset stream? Memory, speed and size of ``deepecg-train prepare`` on an archive of its own making.

The archive is of MIMIC-IV-ECG's layout: ten seconds of I, II and V1 to V6 at 100 Hz by the project's generator, four
recordings a patient, a machine report each; every hundredth is a rescaled copy of an earlier one under another patient.
100,000 records take under 5 GB in the temporary folder, which is emptied at the end. Prints JSON::

    nice -n 19 python tests/benchmarks/bench_prepare.py --records 100000
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from agent.simulator.ecg import INDEPENDENT, Rhythm, synthesize

RATE, SECONDS = 100, 10
RHYTHMS = (Rhythm.SINUS, Rhythm.BRADYCARDIA, Rhythm.TACHYCARDIA, Rhythm.AFIB)
COPY_EVERY = 100


def make_archive(folder: Path, records: int) -> int:
    """Write the archive; the number of copies in it."""
    copies = 0
    lines = ",".join(f"report_{i}" for i in range(18))
    with (folder / "record_list.csv").open("w") as listed, (folder / "machine_measurements.csv").open("w") as reports:
        listed.write("subject_id,study_id,file_name,ecg_time,path\n")
        reports.write(f"subject_id,study_id,{lines}\n")
        for i in range(records):
            is_copy = i % COPY_EVERY == COPY_EVERY - 1
            copies += is_copy
            seed = i // 2 if is_copy else i
            seed -= seed % COPY_EVERY == COPY_EVERY - 1  # a copy's own seed was never used
            rhythm = RHYTHMS[seed % len(RHYTHMS)]
            signal = synthesize(rhythm, SECONDS, RATE, INDEPENDENT, seed) * (0.5 if is_copy else 1.0)
            patient, study = 10_000_000 + (records + i if is_copy else i // 4), 40_000_000 + i
            path = f"files/p{patient // 10_000}/p{patient}/s{study}/{study}"
            write_record(folder / path, np.rint(signal * 1000).astype("<i2"))
            listed.write(f"{patient},{study},{study},2180-07-23,{path}\n")
            reports.write(f"{patient},{study},{rhythm.value} rhythm{',' * 17}\n")
    return copies


def write_record(path: Path, counts: np.ndarray) -> None:
    """A WFDB record of format 16, 1 µV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".dat").write_bytes(counts.T.tobytes())
    lines = [f"{path.name} {len(counts)} {RATE} {counts.shape[1]}"]
    lines += [
        f"{path.name}.dat 16 1000(0)/mV 16 0 {row[0]} 0 0 {lead}" for lead, row in zip(INDEPENDENT, counts, strict=True)
    ]
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")


def taken(dataset: Path) -> int | None:
    """Recordings that are whole so far; None before the first shard and after the end."""
    try:
        with closing(sqlite3.connect(f"{(dataset / 'table.sqlite').as_uri()}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT taken FROM progress").fetchone()[0])
    except sqlite3.OperationalError:
        return None


def resident(pid: int) -> float:
    """MB of the process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    records = parser.parse_args().records
    with tempfile.TemporaryDirectory(prefix="bench_prepare_") as temporary:
        archive, dataset = Path(temporary, "archive"), Path(temporary, "dataset")
        archive.mkdir()
        began = time.perf_counter()
        copies = make_archive(archive, records)
        made = time.perf_counter() - began
        command = [Path(sys.executable).with_name("deepecg-train"), "prepare", dataset, "--source", f"mimic={archive}"]
        began = time.perf_counter()
        process = subprocess.Popen([*command, "--rate", str(RATE)], stdout=subprocess.DEVNULL)
        rss: dict[int, float] = {}
        marks = sorted({records // 10, records // 2, records})
        peak = 0.0
        while process.poll() is None:
            try:
                now = resident(process.pid)
            except (FileNotFoundError, ProcessLookupError):
                break
            peak = max(peak, now)
            if (count := taken(dataset)) is not None:
                for mark in marks:
                    if count >= mark:
                        rss.setdefault(mark, round(now, 1))
            rss_last = round(now, 1)
            time.sleep(0.5)
        took = time.perf_counter() - began
        assert process.wait() == 0
        rss.setdefault(records, rss_last)
        with closing(sqlite3.connect(dataset / "table.sqlite")) as database:
            used, refused = (
                database.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("record", "rejected")
            )
        result = {
            "records": records,
            "used": used,
            "copies_made": copies,
            "refused_as_duplicate": refused,
            "rss_mb_at_records": rss,
            "rss_mb_peak": round(peak, 1),
            "records_per_second": round(records / took, 1),
            "seconds": round(took, 1),
            "bytes_per_record": round(size_of(dataset) / used),
            "table_bytes_per_record": round((dataset / "table.sqlite").stat().st_size / used),
            "archive_bytes_per_record": round(size_of(archive) / records),
            "seconds_to_make_the_archive": round(made, 1),
        }
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
