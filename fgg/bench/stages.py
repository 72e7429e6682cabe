"""The stages that are no passes of a finished model: training it, training an SAE, and the statistics of the comparison."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch

from fgg.bench import limits
from fgg.bench.timing import timed
from fgg.models.training import train
from fgg.statistics.bootstrap import RESAMPLES, bootstrap_intervals

TRAINING: dict[str, Any] = {  # as the default configuration, but for one epoch
    "epochs": 1, "batch_size": 32, "learning_rate": 0.001, "muon_learning_rate": 0.003, "weight_decay": 0.05,
    "warmup": 0.1, "full_epochs": 1, "label_smoothing": 0.1, "drop_path": 0.1, "patch_drop": 0.0, "flips": True, "shift": 0,
    "contrast": 0,
}  # fmt: skip
SAE: dict[str, Any] = {
    "architecture": "topk", "expansion": 8, "k": 24, "normalize": "covariance_whitening", "learning_rate": 0.001, "batch_size": 512,
}  # fmt: skip
EXPERIMENTS, IMAGES, PLAIN = 30, 150, 2  # of the default run; how many of them SciPy computes


def training(size: dict[str, Any], device: torch.device, most: float, images: int = 512) -> dict[str, float]:
    """Images per second of training the model with all patches, and their share of the limit.

    Args:
        size: ``architecture`` and ``kwargs`` of the model.
        most: the limit, operations per second.
        images: number of images of the epoch.
    """
    generator = torch.Generator().manual_seed(0)
    side = size["kwargs"].get("img_size", 224)
    pixels = torch.randn(images, 3, side, side, generator=generator).to(device)
    labels = torch.randint(10, (images,), generator=generator).to(device)

    def run(count: int) -> float:
        return timed(
            lambda: train(size["architecture"], size["kwargs"], pixels[:count], labels[:count], 10, TRAINING, 0), device
        )[0]

    batch = TRAINING["batch_size"]
    few, all_ = min(run(batch), run(batch)), run(images)  # what building the model costs is in both
    model = train(size["architecture"], size["kwargs"], pixels[:batch], labels[:batch], 10, TRAINING, 0)[0]
    rate = (images // batch * batch - batch) / (all_ - few)
    return {"images_per_second": rate, "share_of_limit": rate * limits.operations(model)["training"] / most}


def sae_training(width: int, device: torch.device, most: float, tokens: int = 51_200) -> dict[str, float]:
    """Tokens per second of training a top-k SAE on residuals in memory, and their share of the limit.

    The work is that of the encoder's and the decoder's products with their two gradients each, 12 D F per token, as if
    codes were dense.

    Args:
        width: D, of the residual stream; F is 8 D.
        most: the limit, operations per second.
    """
    os.environ.setdefault("WANDB_MODE", "disabled")  # sae-lens imports wandb
    from fgg.saes import training as sae

    rows = torch.randn(20_000, width, generator=torch.Generator().manual_seed(0)).to(device)
    sae.train(rows, {**SAE, "tokens": SAE["batch_size"]}, 0)  # imports, and what the first step costs
    start = time.perf_counter()
    sae.train(rows, {**SAE, "tokens": tokens}, 0)
    rate = tokens / (time.perf_counter() - start)
    return {"tokens_per_second": rate, "share_of_limit": rate * 12 * width * SAE["expansion"] * width / most}


def intervals() -> dict[str, float]:
    """Seconds of the bootstrap intervals of a metric's default run, and how many times SciPy's take; none is a product."""
    from scipy import stats

    draw = np.random.default_rng(0)
    vectors = list(draw.normal(size=(EXPERIMENTS, IMAGES)))
    bootstrap_intervals(vectors[:1], 0)  # draws the resamples, which all metrics and strata of this length share
    ours, found = timed(lambda: bootstrap_intervals(vectors, 0), torch.device("cpu"))

    def scipys() -> list[Any]:
        return [
            stats.bootstrap((own,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=draw).confidence_interval
            for own in vectors[:PLAIN]
        ]

    theirs, other = timed(scipys, torch.device("cpu"))
    gaps = [abs(low - their.low) / (high - low) for (low, high), their in zip(found, other, strict=False)]
    return {
        "seconds": ours,
        "ratio_to_scipy": theirs / PLAIN * EXPERIMENTS / ours,
        "largest_gap": float(max(gaps)),  # as a share of the interval's length: other resamples
    }
