"""A sweep of twelve experiments, as the workflow computes it and one by one by the plain implementation.

The experiments are TransMM, the default study's gates at one and at two layers, and a sharpened TransMM. The workflow's jobs
share one pass of the model for all maps, answers to random subsets, and versions of an image that several maps contain. The
plain implementation does everything anew for every experiment.

`fgg.bench` sweeps noise with random weights, whose maps have hardly a version in common. ``python -m fgg.bench.sweep`` takes the
model, the images and the SAEs of a study, by default those of the default run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgg.attribution.attribute import Wanted, attribute_several
from fgg.attribution.gate import Gate
from fgg.attribution.registry import find_method
from fgg.bench import plain
from fgg.bench.timing import in_turn
from fgg.data.load import load_split
from fgg.faithfulness import faithfulness_correlation, pixel_flipping, saco
from fgg.jobs.command import command
from fgg.models import model_files
from fgg.models.device import JOB_THREADS, resolve
from fgg.models.vit import patch_size
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import make_fill
from fgg.perturbation.passes import Passes
from fgg.saes.sae import load_for
from fgg.tables import write_json

ROUNDS = 3
RUNS, SUBSET = 60, 20
EXPANSION, K = 8, 24  # of the SAE, as in the default study
KINDS = (
    ("combined", False),
    ("activation_only", False),
    ("gradient_only", False),
    ("no_sae", False),
    ("combined", True),
)
Scores = dict[str, np.ndarray]


@command
def main(argv: list[str] | None = None) -> None:
    """Time a sweep with the model, images and SAEs of a study."""
    parser = argparse.ArgumentParser(prog="python -m fgg.bench.sweep", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("data/models/elpv"), help="model folder")
    parser.add_argument("--images", type=Path, default=Path("data/prepared/elpv/test.parquet"), help="prepared split")
    parser.add_argument(
        "--saes", type=Path, default=Path("data/saes/elpv"), help="folder with a layer_{l} for each layer"
    )
    parser.add_argument("--count", type=int, default=8, help="images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=JOB_THREADS)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/sweep.json"))
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    device = resolve(given.device)
    model, preprocess, record = model_files.load(given.model, device)
    split = load_split(given.images).part(slice(0, given.count))
    images = split.tensors(preprocess).to(device)
    layers = sorted({layer for gate in gates(len(model.blocks)) if gate for layer in gate.layers})
    saes = {layer: load_for(given.saes / f"layer_{layer}", model, layer) for layer in layers}
    patches = model.patch_embed.num_patches
    drawn = faithfulness_correlation.draw_subsets(split.image_ids, patches, 1, RUNS, min(SUBSET, patches // 3), 0)
    subsets = torch.from_numpy(drawn[:, 0])
    found = compare(model, deepcopy(model), images, subsets, -(-patches // 4), device, saes)
    show(found)
    settings = {"model": record["architecture"], "images": len(split), "threads": given.threads, "device": str(device)}
    write_json(given.output, found, {**settings, "torch": torch.__version__})


def show(found: Mapping[str, float]) -> None:
    """Print the ratios of a sweep."""
    print(f"  (d) twelve experiments      {found['twelve_over_one']:.2f} x the time of one,")
    print(
        f"                              {found['ratio_to_plain']:.2f} x as fast as twelve by the plain implementation,"
    )
    print(f"                              {found['computed']:.0%} of their perturbed images computed")


class TopK:
    """A top-k SAE with random weights: what it costs is what a trained one costs."""

    def __init__(self, width: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.W_dec = torch.randn(EXPANSION * width, width, generator=generator).to(device) / width**0.5
        self.k = min(K, width)

    def encode(self, residual: Tensor) -> Tensor:
        """Codes (…, F) of a residual stream (…, D)."""
        found = (residual @ self.W_dec.T).relu()
        largest = found.topk(self.k, dim=-1)
        return torch.zeros_like(found).scatter_(-1, largest.indices, largest.values)


def gates(depth: int) -> list[Gate | None]:
    """No gate, and those of the default study; twelve experiments with the sharpened control of `sweep`."""
    layers = [(depth // 3,), tuple(sorted({depth // 6, depth // 3}))]
    return [None, *(Gate(own, kind, shuffle_decoder=shuffled) for own in layers for kind, shuffled in KINDS)]


def sweep(
    model: Any, images: Tensor, subsets: Tensor, bins: int, wanted: list[Wanted], passes: Passes | None = None
) -> list[Scores]:
    """Maps and scores of the experiments, as the workflow's jobs compute them; ``passes`` counts them."""
    ids = [str(number) for number in range(len(images))]
    engine = Perturber(model, images)
    engine = engine.using(make_fill("mean", images, patch_size(model), None, ids, 0))
    engine.passes = engine.passes if passes is None else passes
    answers = faithfulness_correlation.responses(engine, subsets)
    scores = []
    for found in attribute_several(model, images, wanted, None, ids, 0):
        own = engine.for_one_map()
        scores.append(
            {
                "saco": saco.evaluate(own, found.relevance, bins=bins).score.cpu().numpy(),
                "faithfulness_correlation": faithfulness_correlation.correlate(found.relevance, subsets, answers)
                .cpu()
                .numpy(),
                "pixel_flipping": pixel_flipping.evaluate(own, found.relevance).auc.cpu().numpy(),
            }
        )
    return scores


def plain_experiment(
    model: Any, images: Tensor, subsets: Tensor, bins: int, gate: Gate | None, saes: Mapping[int, Any]
) -> Scores:
    """One experiment without any sharing: the map of each image, then the metrics."""
    relevance = torch.stack([plain.transmm(model, image[None], gate, saes) for image in images])
    maps = relevance.cpu().numpy().astype(np.float64)
    return plain.all_metrics(model, images.cpu().numpy(), maps, subsets.cpu().numpy(), bins)


def compare(
    model: Any,
    unfused: Any,
    images: Tensor,
    subsets: Tensor,
    bins: int,
    device: torch.device,
    saes: Mapping[int, Any] | None = None,
) -> dict[str, float]:
    """Seconds of one experiment and of twelve, of a plain experiment, and how far the scores are apart.

    Args:
        unfused: the same model for the plain implementation, which changes it.
        subsets: int64 (B, runs, k).
        saes: layer -> SAE; None takes a random one.
    """
    method, each = find_method("transmm"), gates(len(model.blocks))
    if saes is None:
        saes = dict.fromkeys(range(len(model.blocks)), TopK(model.embed_dim, device))
    wanted = [Wanted(method, {}, gate, {} if gate is None else saes) for gate in each]
    wanted.append(Wanted(method, {}, each[1], saes, "sharpened"))
    seconds = in_turn(
        {
            "one": partial(sweep, model, images, subsets, bins, wanted[:1]),
            "twelve": partial(sweep, model, images, subsets, bins, wanted),
            # A gate at two layers: of the sweep's kinds the most frequent one.
            "plain": partial(plain_experiment, unfused, images, subsets, bins, each[-5], saes),
        },
        device,
        ROUNDS,
    )
    gaps, passes = [], Passes()
    ours = sweep(model, images, subsets, bins, wanted, passes)
    for gate, own in zip(each[1:3], ours[1:3], strict=True):
        other = plain_experiment(unfused, images, subsets, bins, gate, saes)
        gaps += [float(np.abs(own[name] - other[name]).max()) for name in own]
    return {
        "one_seconds": seconds["one"],
        "twelve_seconds": seconds["twelve"],
        "twelve_over_one": seconds["twelve"] / seconds["one"],
        "plain_experiment_seconds": seconds["plain"],
        "ratio_to_plain": len(wanted) * seconds["plain"] / seconds["twelve"],
        "computed": passes.computed / passes.asked,
        "largest_deviation": max(gaps),
    }


if __name__ == "__main__":
    sys.exit(main())
