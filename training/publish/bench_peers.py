"""The peers that ``deepecg-agent bench speed`` starts and compares with, each in a process of its own.

    python -m training.publish.bench_peers bundle sl FOLDER                  # engines and ONNX of fresh weights
    python -m training.publish.bench_peers eager sl FOLDER 2 1 30 8 6        # torch, fp32, as the published container
    python -m training.publish.bench_peers compiled ssl FOLDER 1 1 10        # torch.compile, fp32
    python -m training.publish.bench_peers onnxruntime sl FOLDER 1 1 30      # the bundle's ONNX file
    python -m training.publish.bench_peers peak bf16 1                       # a large matrix product, GFLOP/s

THREADS and pairs of batch and repeats at the end; one line of JSON. The weights are fresh: the time does not depend on
them, and so every machine can measure. ONNX Runtime gets our rearranged graph (`training.publish.serving_form`), which
flatters it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agent.core.bundle.limits import Parity
from agent.core.ecg import LEADS, FloatArray
from agent.core.labels import LABELS
from agent.engines.compile import ONNX
from agent.engines.machine import this_machine
from agent.engines.select import misfit
from training.evaluation.resources import SAMPLES, macs
from training.models.kinds import SSLConfig, released
from training.models.sl import DeepECGSL
from training.models.ssl import DeepECGSSL
from training.models.weights import Provenance, config_of
from training.publish.bundle import Contents, draft, exported
from training.publish.contents import golden_windows, identity_of_model, input_of, labels_of_model, training_of_model
from training.publish.engines import asked_from, compile_all, sources_of
from training.publish.serving_form import Classifier
from training.train.loop import DTYPES
from training.train.recipes import Precision
from training.train.throughput import matrix_peak

ENGINES = ("openvino-f32", "openvino-bf16", "openvino-int8w")
"""Of which a network has those that suit it and this processor: int8 weights are for matrix products."""


def network(name: str) -> Classifier:
    """The network in its published size, in evaluation mode.

    Raises:
        ValueError: there is no such one.
    """
    net: Classifier
    match name:
        case "sl":
            net = DeepECGSL(released(len(LABELS)))
        case "ssl":
            net = DeepECGSSL(SSLConfig())
        case _:
            raise ValueError(f"there is no network {name!r}; take sl or ssl")
    net.initialise(torch.Generator().manual_seed(0))
    return net.eval()


def write_bundle(name: str, folder: Path) -> dict[str, object]:
    """An unsigned bundle that no gate has seen: for measuring, not for serving."""
    net = network(name)
    config = config_of(net, task="77 diagnoses", provenance=Provenance(origin="fresh, for a benchmark"))
    spec = input_of(config.preprocessing, "all")
    identity = identity_of_model(config, sum(p.numel() for p in net.parameters()), "0.0.0", name=f"bench-{name}")
    contents = Contents(
        net=net,
        config=config,
        labels=labels_of_model(config),
        input=spec,
        identity=identity,
        training=training_of_model(config),
        golden=golden_windows(spec),
        readme="",
        keep_weights=False,
    )
    asked = [asked_from(text) for text in ENGINES]
    source = sources_of(exported(contents), onnx=True)
    built, _ = compile_all(source, asked, drop_failing=True, progress=False)
    built = [one for one in built if not misfit(one.entry(Parity()), this_machine())]  # bf16 asks for AVX-512
    with draft(folder, contents, source, built) as made:
        made.publish(folder, made.manifest.engines)
    p = config.preprocessing
    return {
        "engines": [f"{one.flavour}-{one.precision}" for one in built],
        "gigaflop": 2 * macs(net, round(p.rate * p.seconds)) / 1e9,
        "parameters": sum(q.numel() for q in net.parameters()),
    }


def _torch(name: str, *, compiled: bool) -> Callable[[FloatArray], object]:
    net = network(name)
    module: Callable[[Tensor], Tensor] = torch.compile(net, dynamic=False) if compiled else net

    def infer(x: FloatArray) -> object:
        with torch.inference_mode():
            return torch.sigmoid(module(torch.from_numpy(x))).numpy()

    return infer


def _onnxruntime(folder: Path, threads: int) -> Callable[[FloatArray], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / ONNX), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def measured(
    infer: Callable[[FloatArray], object], plan: Sequence[tuple[int, int]]
) -> dict[str, dict[str, list[float]]]:
    """By batch size the milliseconds of each run, by the wall and of the processor; one run before is not counted."""
    results: dict[str, dict[str, list[float]]] = {}
    for batch, repeats in plan:
        x = np.random.default_rng(0).normal(0, 60, (batch, len(LEADS), SAMPLES)).astype(np.float32)
        wall, cpu = [], []
        for _ in range(1 + repeats):
            began, began_cpu = time.perf_counter(), time.process_time()
            infer(x)
            wall.append(1e3 * (time.perf_counter() - began))
            cpu.append(1e3 * (time.process_time() - began_cpu))
        results[str(batch)] = {"wall_ms": wall[1:], "cpu_ms": cpu[1:]}
    return results


def peak(precision: Precision | str, threads: int) -> float:
    """GFLOP/s of a large matrix product; of ``int8`` the products and sums are integers."""
    torch.set_num_threads(threads)
    if precision != "int8":
        return matrix_peak(torch.device("cpu"), DTYPES.get(precision, torch.float32))  # type: ignore[call-overload]
    size = 2048
    a, b = (torch.randint(-127, 128, (size, size), dtype=torch.int8) for _ in range(2))
    times = []
    for _ in range(6):
        began = time.perf_counter()
        torch._int_mm(a, b)  # the one public way to such a product, underscore and all
        times.append(time.perf_counter() - began)
    return 2 * size**3 / 1e9 / min(times)


def main(arguments: list[str]) -> None:
    """See the top of the file."""
    told: object
    match arguments:
        case ["bundle", name, folder]:
            told = write_bundle(name, Path(folder))
        case ["peak", precision, threads]:
            told = {"gigaflops": peak(precision, int(threads))}
        case [("eager" | "compiled" | "onnxruntime") as kind, name, folder, threads, *plan]:
            torch.set_num_threads(int(threads))
            pairs = [(int(batch), int(repeats)) for batch, repeats in zip(plan[::2], plan[1::2], strict=True)]
            if kind == "onnxruntime":
                infer = _onnxruntime(Path(folder), int(threads))
            else:
                infer = _torch(name, compiled=kind == "compiled")
            told = {"batches": measured(infer, pairs)}
        case _:
            raise SystemExit(__doc__)
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
