"""Time DeepECG-SL in torch eager: the peer that ``deepecg-agent bench eager`` starts and compares.

    python -m training.bench_eager LABELS THREADS BATCH REPEATS [BATCH REPEATS …]

prints one JSON line: batch size to the milliseconds of each run, by the wall and of the processor.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch

from agent.core.ecg import LEADS
from training.models.sl import DeepECGSL, released


def main(arguments: list[str]) -> None:
    """Run once unseen for each batch size, then the repeats."""
    labels, threads, *plan = arguments
    torch.set_num_threads(int(threads))
    net = DeepECGSL(released(int(labels)))
    net.initialise(torch.Generator().manual_seed(0))
    net.eval()
    results: dict[str, dict[str, list[float]]] = {}
    for batch, repeats in zip(plan[::2], plan[1::2], strict=True):
        noise = np.random.default_rng(0).normal(0, 60, (int(batch), len(LEADS), 2500))
        x = torch.from_numpy(noise.astype(np.float32))
        wall, cpu = [], []
        for _ in range(1 + int(repeats)):
            began, began_cpu = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                torch.sigmoid(net(x))
            wall.append(1e3 * (time.perf_counter() - began))
            cpu.append(1e3 * (time.process_time() - began_cpu))
        results[batch] = {"wall_ms": wall[1:], "cpu_ms": cpu[1:]}
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
