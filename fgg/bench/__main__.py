"""Benchmarks: ``python -m fgg.bench``. Prints ratios, writes JSON.

Two model sizes are measured: the default model (80 x 80, patch 8, width 96, depth 6) and a ViT-B/16 at 224 with random
weights. Every ratio is against a baseline of the same run with the same number of threads: the plain implementation of
`fgg.bench.plain`, and captum, pytorch-grad-cam and Quantus where they are installed (requirements-peers.txt). Every stage is
also given as a share of what this machine's matrix products can do at the model's own shapes (`fgg.bench.limits`). Rates are
medians over rounds in which the two sides alternate.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgg.attribution.attribute import attribute
from fgg.bench import limits, peers, plain, stages, sweep
from fgg.bench.processes import memory, startup, work_through
from fgg.bench.timing import in_turn, rate, side_by_side, timed
from fgg.faithfulness import faithfulness_correlation, pixel_flipping, saco
from fgg.jobs.command import command
from fgg.models.device import arithmetic, images_per_batch, resolve, rows_per_batch
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
        "sweep": False,  # it and the peers would take half an hour on a CPU, and the default model gives the ratios too
    },
}  # fmt: skip
RUNS, SUBSET = 60, 20
PEER_ROUNDS = 2


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
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="logs of the last run, for its start-up")
    parser.add_argument("--memory", type=int, metavar="IMAGES", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    device = resolve(arguments.device)
    if arguments.memory:
        print(json.dumps(work_through(SIZES["default"], arguments.memory, device)))
        return
    for name in arguments.sizes:
        with arithmetic(arguments.precision, device):
            found = measure(name, device, arguments.seconds, arguments.precision)
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


def measure(name: str, device: torch.device, seconds: float, precision: str) -> dict[str, Any]:
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

    limit = limits.matrix_rate(model, rows_per_batch(model, device), device, precision)
    most, work = max(limit.values()), limits.operations(model)
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
    passes = len(scored) * (bins + subsets.shape[1] + engine.patches)  # SaCo, Faithfulness Correlation, Pixel Flipping
    found = {
        "limit": {
            "matrix_gflops": {way: value / 1e9 for way, value in limit.items()},
            "memory_gigabytes_per_second": limits.memory_rate(device) / 1e9,
            "operations_per_image": work,
        },
        "bare_forward": {
            "images_per_second": forward,
            "best_batch": best,
            "share_of_limit": forward * work["forward"] / most,
        },
        "a_perturbed_forward": {
            "per_second": perturbed,
            "ratio_to_bare": perturbed / forward,
            "rows": engine.rows,
            "share_of_limit": perturbed * work["perturbed"] / most,
        },
        "b_attribution": {
            "images_per_second": together,
            "share_of_limit": together * work["attribution"] / most,
            "ratio_to_one_at_a_time": together / alone,
            "bare_forwards_per_image": forward / together,
        },
        "c_metrics": {
            "seconds": own_time,
            "plain_seconds": plain_time,
            "ratio_to_plain": plain_time / own_time,
            "share_of_limit": passes * work["perturbed"] / own_time / most,
            "largest_deviation": {metric: float(np.abs(own[metric] - other[metric]).max()) for metric in own},
        },
    }
    if size["sweep"]:
        found["d_sweep"] = sweep.compare(model, unfused, images, subsets[: len(images)], bins, device)
        found["peers"] = beside_peers(size, images, device)
        found["training"] = stages.training(size, device, most)
        found["sae_training"] = stages.sae_training(limits.shapes(model)["width"], device, most)
        found["intervals"] = stages.intervals()
    return found


def beside_peers(size: dict[str, Any], images: torch.Tensor, device: torch.device) -> dict[str, dict[str, float]]:
    """Seconds of other libraries and of fgg for the same work, in turn, and how many times faster fgg is.

    Images have one channel, since Quantus takes every channel's pixels as features of their own.
    """
    model = load_model(size["architecture"], {**size["kwargs"], "in_chans": 1}, num_classes=10).to(device)
    found = {}
    grey = images[:, :1].contiguous()
    relevance = attribute(model, grey).relevance
    for name, (ours, theirs) in peers.pairs(model, grey, relevance).items():
        seconds = in_turn({"seconds": ours, "peer_seconds": theirs}, device, PEER_ROUNDS)
        found[name] = {**seconds, "ratio": seconds["peer_seconds"] / seconds["seconds"]}
    return found


def show(name: str, found: dict[str, Any]) -> None:
    """Print the ratios of one size."""

    def share(stage: str) -> str:
        return f"{found[stage]['share_of_limit']:.2f} of the limit"

    limit = found["limit"]
    ways = ", ".join(f"{way} {value:.0f}" for way, value in limit["matrix_gflops"].items())
    print(
        f"{name}: matrix products at its shapes, GFLOP/s: {ways}; memory {limit['memory_gigabytes_per_second']:.0f} GB/s"
    )
    print(f"  bare forward {found['bare_forward']['images_per_second']:.1f} images/s, {share('bare_forward')}")
    perturbed = found["a_perturbed_forward"]
    print(
        f"  (a) perturbed forward       {perturbed['ratio_to_bare']:.2f} of the bare one, {share('a_perturbed_forward')}"
    )
    attribution = found["b_attribution"]
    print(f"  (b) batched attribution     {attribution['bare_forwards_per_image']:.2f} bare forwards per image,")
    print(
        f"                              {attribution['ratio_to_one_at_a_time']:.2f} x one image at a time, {share('b_attribution')}"
    )
    print(
        f"  (c) three metrics           {found['c_metrics']['ratio_to_plain']:.2f} x the plain implementation, {share('c_metrics')}"
    )
    if "d_sweep" in found:
        sweep.show(found["d_sweep"])
    if "training" in found:
        print(
            f"  training                    {found['training']['images_per_second']:.0f} images/s, {share('training')}"
        )
        sae = found["sae_training"]
        print(f"  training of an SAE          {sae['tokens_per_second']:.0f} tokens/s, {share('sae_training')}")
        print(f"  bootstrap intervals         {found['intervals']['ratio_to_scipy']:.1f} x as fast as SciPy")
    if "memory" in found:
        print(f"  (e) peak memory, 512 images {found['memory']['ratio']:.2f} x that at 64")
    for peer, times in found.get("peers", {}).items():
        print(f"  {peer:<32}{times['ratio']:.2f} x as fast")


if __name__ == "__main__":
    sys.exit(main())
