"""What a lower precision changes in the metrics: ``python -m fgg.bench.precision``. Prints a table, writes JSON.

The maps are float32. The forward passes of the metrics run in both precisions on the same images, in turn. For each metric and
fill: the means, the change of the mean (bias) as a share of its standard error, and the largest change of one image.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgg.attribution.attribute import attribute
from fgg.data.load import load_split
from fgg.faithfulness import faithfulness_correlation, saco
from fgg.faithfulness.order_curves import OrderCurves
from fgg.jobs.command import command
from fgg.models import model_files
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.models.onednn_linear import has_bf16
from fgg.models.vit import patch_size
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import channel_values, make_fill
from fgg.progress import batches
from fgg.tables import write_json

RUNS, SUBSET = 60, 20
MOST_SHARE = 0.2  # of a standard error, that a metric's mean may move by


@command
def main(argv: list[str] | None = None) -> None:
    """Score one method's maps in both precisions."""
    parser = argparse.ArgumentParser(prog="python -m fgg.bench.precision", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("data/models/elpv"), help="model folder")
    parser.add_argument("--images", type=Path, default=Path("data/prepared/elpv/test.parquet"), help="prepared split")
    parser.add_argument("--count", type=int, default=150, help="images")
    parser.add_argument("--method", default="transmm")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "tf32"])
    parser.add_argument("--fills", nargs="+", default=["mean", "removal"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/precision.json"))
    given = parser.parse_args(argv)
    torch.set_num_threads(JOB_THREADS)
    device = resolve(given.device)
    model, preprocess, record = model_files.load(given.model, device)
    split = load_split(given.images, given.count, 0)
    precisions = ("fp32", given.precision)
    values: dict[str, dict[str, list[np.ndarray]]] = {precision: {} for precision in precisions}
    seconds = dict.fromkeys(precisions, 0.0)
    for rows in batches(len(split), images_per_batch(model), "images"):
        images = split.tensors(preprocess, rows).to(device)
        ids = split.image_ids[rows]
        relevance = attribute(model, images, given.method).relevance
        fills = [make_fill(fill, images, patch_size(model), channel_values(preprocess), ids, 0) for fill in given.fills]
        for precision in precisions:
            started = time.perf_counter()
            with arithmetic(precision, device):
                found = scores(model, images, relevance, fills, ids)
            seconds[precision] += time.perf_counter() - started
            for name, own in found.items():
                values[precision].setdefault(name, []).append(own)
    table = {
        name: compared(np.concatenate(values["fp32"][name]), np.concatenate(values[given.precision][name]))
        for name in values["fp32"]
    }
    speed = seconds["fp32"] / seconds[given.precision]
    about: dict[str, Any] = {
        "model": record["architecture"], "images": len(split), "method": given.method, "precision": given.precision,
        "device": str(device), "bf16_instructions": has_bf16() if device.type == "cpu" else None,
    }  # fmt: skip
    write_json(given.output, {**about, "rate_over_fp32": speed, "metrics": table}, about)
    print(f"{given.precision} scores {speed:.2f} times as many images as fp32 ({len(split)} images, {given.method})")
    for name, row in table.items():
        verdict = "" if abs(row["bias_over_se"]) <= MOST_SHARE else "  more than a fifth of the standard error"
        print(
            f"  {name:<38} mean {row['fp32']:+.4f} -> {row['other']:+.4f}, {row['bias_over_se']:+.3f} standard errors, "
            f"one image at most {row['largest']:.4f}{verdict}"
        )


def scores(
    model: Any, images: torch.Tensor, relevance: torch.Tensor, fills: list[Any], ids: list[str]
) -> dict[str, np.ndarray]:
    """Metric and fill -> scores of the images, float64 (B,); all with one patch per step, or four per bin."""
    clean = Perturber(model, images)
    target = clean.clean.argmax(-1)
    drawn = faithfulness_correlation.draw_subsets(ids, clean.patches, 1, RUNS, min(SUBSET, clean.patches // 2), 0)
    subsets = torch.from_numpy(drawn[:, 0])
    found: dict[str, np.ndarray] = {}
    for fill in fills:
        engine = clean.using(fill)
        curves = OrderCurves(engine, relevance, target)
        mif, lif = curves.area(curves.mif(1)), curves.area(curves.lif(1))
        answers = faithfulness_correlation.responses(engine, subsets, target)
        own = {
            "saco": saco.evaluate(engine, relevance, target).score,
            "faithfulness_correlation": faithfulness_correlation.correlate(relevance, subsets, answers),
            "pixel_flipping": mif,
            "srg": lif - mif,
        }
        found |= {f"{metric}, {fill.name}": values.double().cpu().numpy() for metric, values in own.items()}
    return found


def compared(exact: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Means, bias, and largest change of scores (images,); images that are undefined in either are counted."""
    defined = np.isfinite(exact) & np.isfinite(other)
    change = (other - exact)[defined]
    error = exact[defined].std(ddof=1) / defined.sum() ** 0.5
    return {
        "images": int(defined.sum()),
        "undefined": int((~defined).sum()),
        "fp32": float(exact[defined].mean()),
        "other": float(other[defined].mean()),
        "standard_error": float(error),
        "bias_over_se": float(change.mean() / error) if change.any() else 0.0,
        "largest": float(np.abs(change).max()),
    }


if __name__ == "__main__":
    sys.exit(main())
