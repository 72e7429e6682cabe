"""What each attribution method costs in time: ``python -m fgg.bench.methods``. Prints a table, writes JSON.

The time of a method is divided by that of a forward pass of the same images in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fgg.attribution.attribute import attribute
from fgg.attribution.registry import MASKS, methods
from fgg.data.load import load_split
from fgg.jobs.command import command
from fgg.models import model_files
from fgg.models.device import resolve
from fgg.tables import write_json

ROUNDS = 3
SLOW = 2.0  # seconds from which a method is timed once


@command
def main(argv: list[str] | None = None) -> None:
    """Time every method that needs no masks."""
    parser = argparse.ArgumentParser(prog="python -m fgg.bench.methods", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("data/models/elpv"), help="model folder")
    parser.add_argument("--images", type=Path, default=Path("data/prepared/elpv/test.parquet"), help="prepared split")
    parser.add_argument("--count", type=int, default=8, help="images in a batch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/methods.json"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    device = resolve(arguments.device)
    model, preprocess, record = model_files.load(arguments.model, device)
    images = load_split(arguments.images, arguments.count, 0).tensors(preprocess).to(device)

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    bare = seconds(forward, device) / len(images)
    found: dict[str, dict[str, Any]] = {}
    for name, method in methods().items():
        if any(given in method.declaration.parameters for given in MASKS):
            continue
        own = seconds(partial(attribute, model, images, name), device) / len(images)
        patches = attribute(model, images[:1], "random").relevance.shape[1]
        passes = method.passes(patches)
        found[name] = {"ms_per_image": 1e3 * own, "forward_passes": own / bare, "stated": list(passes)}
        print(f"{name:<26}{1e3 * own:9.1f} ms per image, {own / bare:8.1f} forward passes; {method.cost}", flush=True)
    about = {
        "model": record["architecture"],
        "images": len(images),
        "threads": arguments.threads,
        "device": str(device),
    }
    write_json(arguments.output, {**about, "forward_ms": 1e3 * bare, "methods": found}, about)


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """The median time of a call after a first one; a slow call is made once."""
    times = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if times[-1] > SLOW:
            return times[-1]
    return statistics.median(times[1:])


if __name__ == "__main__":
    sys.exit(main())
