"""How fast a dataset gives its windows from the page cache, one thread. Prints JSON::

python tests/benchmarks/bench_batches.py DATASET
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from training.data import WindowTable

BATCH, BATCHES, ROUNDS = 64, 40, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    began = time.perf_counter()
    table = WindowTable.open(parser.parse_args().dataset)
    opened = time.perf_counter() - began
    rng = np.random.default_rng(0)
    speed: dict[str, int] = {}
    for leads in (12, 2):
        index = np.flatnonzero(table.lead_mask.sum(axis=1) == leads)
        drawn = [rng.choice(index, BATCH) for _ in range(BATCHES)] if len(index) else []
        times = []
        for _ in range(ROUNDS if drawn else 0):  # the first round fills the cache
            began = time.perf_counter()
            for chosen in drawn:
                table.batch(chosen)
            times.append(time.perf_counter() - began)
        if times:
            speed[f"{leads}_leads"] = round(BATCH * BATCHES / min(times))
    print(json.dumps({"windows": len(table), "seconds_to_open": round(opened, 3), "windows_per_second": speed}))


if __name__ == "__main__":
    main()
