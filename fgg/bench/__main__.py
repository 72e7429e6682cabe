"""Benchmarks: ``python -m fgg.bench``. Prints ratios, writes JSON.

Two model sizes are measured: the default model (80 x 80, patch 8, width 96, depth 6) and a ViT-B/16 at 224 with random
weights. Every ratio is against a baseline of the same run with the same number of threads. Rates are medians over
rounds in which the two sides alternate.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgg.attribution.attribute import attribute
from fgg.bench import plain
from fgg.faithfulness import faithfulness_correlation, pixel_flipping, saco
from fgg.jobs.command import command
from fgg.models.device import arithmetic, images_per_batch, resolve
from fgg.models.vit import load_model
from fgg.perturbation.engine import Perturber
from fgg.tables import write_json

SIZES: dict[str, dict[str, Any]] = {
    "default": {
        "architecture": "vit_tiny_patch16_224",
        "kwargs": {
            "img_size": 80, "patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_ratio": 2,
        },
        "batches": (16, 32, 64, 128, 256),
        "images": 8,
        "scored": 64,  # number of images in a batch of the workflow
        "sweep": True,
    },
    "vit_b16": {"architecture": "vit_base_patch16_224", "kwargs": {}, "batches": (1, 2, 4, 8), "images": 1, "scored": 1,
        "sweep": False,  # it would take twenty minutes on a CPU, and the default model gives the ratio too
    },
}  # fmt: skip
RUNS, SUBSET = 60, 20
START = re.compile(r"start-up took ([\d.]+) s of ([\d.]+) s")  # as `fgg.errors.command` writes it


@command
def main(argv: list[str] | None = None) -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m fgg.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"), help="folder for the JSON files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both sides")
    parser.add_argument("--seconds", type=float, default=4.0, help="least time per measurement and side")
    parser.add_argument(
        "--logs", type=Path, default=Path("logs"), help="logs of the last run, for the cost of start-up"
    )
    parser.add_argument("--memory", type=int, metavar="IMAGES", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    device = resolve(arguments.device)
    if arguments.memory:
        print(json.dumps(work_through(arguments.memory, device)))
        return
    for name in arguments.sizes:
        with arithmetic(arguments.precision, device):
            found = measure(name, device, arguments.seconds)
        settings = {
            "size": name, "device": str(device), "precision": arguments.precision, "threads": arguments.threads,
            "torch": torch.__version__,
        }  # fmt: skip
        if device.type == "cuda":
            settings["gpu"] = torch.cuda.get_device_name(device)
        if name == "default":
            found["memory"] = memory(arguments.device)
        show(name, found)
        write_json(arguments.output / f"{name}-{device.type}-{arguments.precision}.json", found, settings)
    spent = startup(arguments.logs)
    if spent["jobs"]:
        print(f"last run: start-up took {spent['share']:.0%} of the time of its {spent['jobs']} jobs")
        write_json(arguments.output / "startup.json", spent, {"logs": str(arguments.logs)})


def measure(name: str, device: torch.device, seconds: float) -> dict[str, Any]:
    """All ratios of one model size."""
    size = SIZES[name]
    torch.manual_seed(0)
    model = load_model(size["architecture"], size["kwargs"], num_classes=10).to(device)
    side = model.patch_embed.img_size[0]
    images = torch.randn(size["images"], 3, side, side, device=device)
    scored = torch.randn(size["scored"], 3, side, side, device=device)
    inputs = torch.randn(max(size["batches"]), 3, side, side, device=device)

    @torch.inference_mode()
    def bare(batch: int) -> int:
        model(inputs[:batch])
        return batch

    best = max(size["batches"], key=lambda batch: rate(lambda: bare(batch), seconds / 4, device))
    engine = Perturber(model, images)
    generator = torch.Generator().manual_seed(0)
    versions = -(-engine.patches // 4)  # as many as SaCo needs
    masks = (torch.rand(len(images), versions, engine.patches, generator=generator) < 0.5).to(device)
    perturbed, forward = side_by_side(
        lambda: engine.logits(masks).shape[0] * versions, lambda: bare(best), seconds, device
    )

    def batched() -> int:
        return len(attribute(model, images).relevance)

    def singly() -> int:
        return sum(len(attribute(model, image[None]).relevance) for image in images)

    together, alone = side_by_side(batched, singly, seconds, device)
    relevance = torch.cat([attribute(model, part).relevance for part in scored.split(images_per_batch(model))])
    drawn = faithfulness_correlation.draw_subsets(
        [str(i) for i in range(len(scored))], engine.patches, 1, RUNS, SUBSET, 0
    )
    subsets = torch.from_numpy(drawn[:, 0])
    bins = -(-engine.patches // 4)

    def ours() -> dict[str, np.ndarray]:
        own = Perturber(model, scored)
        answers = faithfulness_correlation.responses(own, subsets)
        scores = {
            "saco": saco.evaluate(own, relevance, bins=bins).score,
            "faithfulness_correlation": faithfulness_correlation.correlate(relevance, subsets, answers),
            "pixel_flipping": pixel_flipping.evaluate(own, relevance).auc,
        }
        return {metric: values.cpu().numpy() for metric, values in scores.items()}

    unfused = load_model(size["architecture"], size["kwargs"], num_classes=10).to(device)
    unfused.load_state_dict(model.state_dict())

    def theirs() -> dict[str, np.ndarray]:
        return plain.all_metrics(
            unfused, scored.cpu().numpy(), relevance.cpu().numpy().astype(np.float64), subsets.numpy(), bins
        )

    (own_time, own), (plain_time, other) = timed(ours, device), timed(theirs, device)
    found = {
        "bare_forward": {"images_per_second": forward, "best_batch": best},
        "a_perturbed_forward": {"per_second": perturbed, "ratio_to_bare": perturbed / forward, "rows": engine.rows},
        "b_attribution": {
            "images_per_second": together,
            "ratio_to_one_at_a_time": together / alone,
            "bare_forwards_per_image": forward / together,
        },
        "c_metrics": {
            "seconds": own_time,
            "plain_seconds": plain_time,
            "ratio_to_plain": plain_time / own_time,
            "largest_deviation": {metric: float(np.abs(own[metric] - other[metric]).max()) for metric in own},
        },
    }
    if size["sweep"]:
        few = subsets[: len(images)]
        one, twelve = (timed(partial(sweep, model, images, few, bins, count), device)[0] for count in (1, 12))
        found["d_sweep"] = {"one_seconds": one, "twelve_seconds": twelve, "twelve_over_one": twelve / one}
    return found


def sweep(model, images, subsets, bins: int, experiments: int) -> None:
    """Do what the workflow does for several experiments: the model's responses once, the rest for each experiment."""
    engine = Perturber(model, images)
    answers = faithfulness_correlation.responses(engine, subsets)
    for _ in range(experiments):
        relevance = attribute(model, images).relevance
        saco.evaluate(engine, relevance, bins=bins)
        pixel_flipping.evaluate(engine, relevance)
        faithfulness_correlation.correlate(relevance, subsets, answers)


def memory(device: str) -> dict[str, float]:
    """Peak memory of attribution and metrics over 64 and 512 images, each in a process of its own."""
    peaks = {}
    for images in (64, 512):
        run = [sys.executable, "-m", "fgg.bench", "--memory", str(images), "--device", device]
        peaks[images] = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    return {"mib_at_64": peaks[64], "mib_at_512": peaks[512], "ratio": peaks[512] / peaks[64]}


def startup(logs: Path) -> dict[str, float]:
    """The cost of starting the processes of a run, from the last lines of its jobs' logs: jobs, seconds, share."""
    found = [START.findall(log.read_text(encoding="utf-8", errors="replace")) for log in sorted(logs.rglob("*.log"))]
    times = [(float(start), float(whole)) for matches in found for start, whole in matches[-1:]]
    starts, wholes = (sum(column) for column in zip(*times, strict=True)) if times else (0.0, 0.0)
    return {"jobs": len(times), "seconds": wholes, "start_seconds": starts, "share": starts / wholes if wholes else 0.0}


def work_through(count: int, device: torch.device) -> float:
    """Attribute and score a number of images batch by batch; return the peak memory of the process in MiB."""
    size = SIZES["default"]
    model = load_model(size["architecture"], size["kwargs"], num_classes=10).to(device)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, 32):
        images = torch.randn(min(32, count - start), 3, 80, 80, generator=generator).to(device)
        relevance = attribute(model, images).relevance
        saco.evaluate(Perturber(model, images), relevance)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def side_by_side(
    first: Callable[[], int], second: Callable[[], int], seconds: float, device: torch.device, rounds: int = 5
) -> tuple[float, float]:
    """Median rates of two functions that alternate, so that disturbances affect both."""
    rates: tuple[list[float], list[float]] = ([], [])
    for function in (first, second):
        function()
    for _ in range(rounds):
        for own, function in zip(rates, (first, second), strict=True):
            own.append(rate(function, seconds / rounds, device))
    return statistics.median(rates[0]), statistics.median(rates[1])


def rate(function: Callable[[], int], seconds: float, device: torch.device) -> float:
    """Images per second of a function that returns the number of images it processed."""
    function()
    synchronize(device)
    done, start = 0, time.perf_counter()
    while not done or time.perf_counter() - start < seconds:
        done += function()
        synchronize(device)
    return done / (time.perf_counter() - start)


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """The duration of one call in seconds, and its return value."""
    synchronize(device)
    start = time.perf_counter()
    value = function()
    synchronize(device)
    return time.perf_counter() - start, value


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, which works asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def show(name: str, found: dict[str, Any]) -> None:
    """Print the ratios of one size."""
    print(f"{name}: bare forward {found['bare_forward']['images_per_second']:.1f} images/s")
    print(f"  (a) perturbed forward       {found['a_perturbed_forward']['ratio_to_bare']:.2f} of the bare one")
    attribution = found["b_attribution"]
    print(f"  (b) batched attribution     {attribution['bare_forwards_per_image']:.2f} bare forwards per image,")
    print(f"                              {attribution['ratio_to_one_at_a_time']:.2f} x one image at a time")
    print(f"  (c) three metrics           {found['c_metrics']['ratio_to_plain']:.2f} x the plain implementation")
    if "d_sweep" in found:
        print(f"  (d) twelve experiments      {found['d_sweep']['twelve_over_one']:.2f} x the time of one")
    if "memory" in found:
        print(f"  (e) peak memory, 512 images {found['memory']['ratio']:.2f} x that at 64")


if __name__ == "__main__":
    sys.exit(main())
