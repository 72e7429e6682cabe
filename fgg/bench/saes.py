"""Memory and time of training an SAE on many large images: ``python -m fgg.bench.saes``. Prints a table, writes JSON.

The images are noise, and so are the model's weights: neither changes the memory or the time. Each number of images is
measured in a process of its own, whose peak memory is that of the training and of nothing before it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from fgg.data.prepare import GROUP_ROWS
from fgg.data.preprocess import Preprocess
from fgg.jobs.command import command
from fgg.models.vit import load_model
from fgg.saes.activations import Residuals
from fgg.saes.training import train
from fgg.tables import SCHEMA_VERSION, write_json

SIDE = 224
SETTINGS: dict[str, Any] = {
    "architecture": "topk",
    "k": 32,
    "normalize": "covariance_whitening",
    "learning_rate": 0.001,
    "batch_size": 4096,
}


@command
def main(argv: list[str] | None = None) -> None:
    """Measure each number of images, or one of them in this process."""
    parser = argparse.ArgumentParser(prog="python -m fgg.bench.saes", description=__doc__.split("\n")[0])
    parser.add_argument("--architecture", default="vit_base_patch16_224", help="timm VisionTransformer")
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 5000], help="numbers of images")
    parser.add_argument("--tokens", type=int, default=200_000, help="tokens of the training, for each number of images")
    parser.add_argument("--expansion", type=int, default=2)
    parser.add_argument("--layer", type=int, default=0, help="block at whose end the SAE reads")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/saes.json"))
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)  # the images of one measurement, in this process
    arguments = parser.parse_args(argv)
    if arguments.only:
        print(json.dumps(measured(arguments)))
        return
    found = []
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder) / "train.parquet"
            _write(images, count)
            options = [
                "--architecture",
                arguments.architecture,
                "--tokens",
                str(arguments.tokens),
                "--only",
                str(images),
            ]
            options += ["--expansion", str(arguments.expansion), "--layer", str(arguments.layer)]
            done = subprocess.run(
                [sys.executable, "-m", "fgg.bench.saes", *options],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "WANDB_MODE": "disabled"},
            )
        own = {"images": count, **json.loads(done.stdout.splitlines()[-1])}
        found.append(own)
        print(
            f"{count:>7} images of {arguments.architecture}: peak memory {own['peak_mib']:.0f} MiB, "
            f"{own['residuals_us']:.0f} µs per token for residuals, {own['training_us']:.0f} µs per token in all",
            flush=True,
        )
    first, last = found[0], found[-1]
    print(f"memory of {last['images']} images / {first['images']}: {last['peak_mib'] / first['peak_mib']:.2f}")
    settings = {"architecture": arguments.architecture, "tokens": arguments.tokens, "layer": arguments.layer}
    write_json(arguments.output, {"measured": found}, settings)


def _write(path: Path, count: int) -> None:
    """Write a prepared split of noise, in row groups of the size that prepared splits have."""
    draw = np.random.default_rng(0)
    few = []
    for _ in range(16):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(file, "JPEG", quality=60)
        few.append(file.getvalue())
    table = pa.table(
        {
            "image_id": [f"{number:06}" for number in range(count)],
            "image": [{"bytes": few[number % len(few)], "path": None} for number in range(count)],
            "label": np.zeros(count, np.int64),
            "label_name": ["noise"] * count,
        }
    ).replace_schema_metadata({"fgg": json.dumps({"schema": SCHEMA_VERSION, "settings": {}, "classes": ["noise"]})})
    pq.write_table(table, path, row_group_size=GROUP_ROWS)


def measured(arguments: argparse.Namespace) -> dict[str, float]:
    """Train on the images of a file; the peak memory of this process, and the time per token."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load_model(arguments.architecture, {}, num_classes=10).eval()
    preprocess = Preprocess(size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
    before = _peak()
    rows = Residuals(model, preprocess, arguments.only, arguments.layer, torch.device("cpu"), 0)
    spent = _timed(rows)
    settings = {**SETTINGS, "expansion": arguments.expansion, "tokens": arguments.tokens}
    start = time.perf_counter()
    train(rows, settings, 0)
    whole = time.perf_counter() - start
    return {
        "peak_mib": _peak(),
        "before_mib": before,
        "residuals_us": 1e6 * spent[0] / arguments.tokens,
        "training_us": 1e6 * whole / arguments.tokens,
    }


def _timed(rows: Residuals) -> list[float]:
    """A list that holds the seconds in which the rows were computed."""
    fill, spent = rows._fill, [0.0]

    def timed(*given: Any) -> Any:
        start = time.perf_counter()
        found = fill(*given)
        spent[0] += time.perf_counter() - start
        return found

    rows._fill = timed  # type: ignore[method-assign, assignment]
    return spent


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
