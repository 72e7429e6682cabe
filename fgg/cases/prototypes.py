"""The prototypes of SAE features: ``python -m fgg.cases.prototypes``.

The prototypes are the patches of a split that activate a feature most. Reads a model's folder, an SAE and a prepared
split; writes a row per feature and rank.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.data.load import load_split
from fgg.data.read_ahead import ReadAhead
from fgg.jobs.command import add_arguments, command
from fgg.models import model_files
from fgg.models.capture import capture
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.progress import batches
from fgg.saes.provenance import model_record
from fgg.saes.sae import load_for
from fgg.tables import write_table

# Number of codes that are processed at once; 2**26 floats are a quarter of a gigabyte.
MOST_FLOATS = 2**26


@dataclass
class Prototypes:
    """The k strongest patches per feature, strongest first. Features with fewer patches have empty places at the end.

    Attributes:
        activation: float32 (F, k); 0 in empty places.
        image: int64 (F, k), the image's position in the stream; -1 in empty places.
        patch: int64 (F, k), the patch's index, row by row; -1 in empty places.
    """

    activation: Tensor
    image: Tensor
    patch: Tensor


class PrototypeIndex:
    """Collects prototypes from a stream of codes; memory is bounded by features x k, for any length of the stream.

    Args:
        features: number of features, F.
        k: patches kept per feature.
        threshold: activations must be larger than this.
        device: device of the codes.
    """

    def __init__(self, features: int, k: int, threshold: float = 0.0, device: torch.device | str = "cpu") -> None:
        self.k, self.threshold, self.images = k, threshold, 0
        self.activation = torch.full((k, features), -torch.inf, device=device)
        self.place = torch.full((k, features), -1, dtype=torch.int64, device=device)
        self.patches = 1

    def add(self, codes: Tensor) -> None:
        """Add the codes (B, N, F) of the next B images. Of patches with equal activations, the earlier one is kept."""
        batch, self.patches, features = codes.shape
        flat = codes.detach().float().flatten(0, 1)
        rows = max(1, MOST_FLOATS // features)
        for start in range(0, len(flat), rows):
            part = flat[start : start + rows]
            values, order = part.topk(min(self.k, len(part)), dim=0)
            order = order + start + self.images * self.patches
            values = torch.cat([self.activation, torch.where(values > self.threshold, values, -torch.inf)])
            places = torch.cat([self.place, order])
            self.activation, best = values.sort(dim=0, descending=True, stable=True)
            self.activation, best = self.activation[: self.k], best[: self.k]
            self.place = places.gather(0, best)
        self.images += batch

    def prototypes(self) -> Prototypes:
        """The prototypes found so far."""
        empty = self.activation.isinf()
        place = torch.where(empty, -1, self.place).T
        activation = torch.where(empty, 0.0, self.activation).T
        image = torch.where(place < 0, -1, place // self.patches)
        return Prototypes(activation, image, torch.where(place < 0, -1, place % self.patches))


def collect(
    model: VisionTransformer, sae: Any, layer: int, batches: Iterable[Tensor], k: int, threshold: float = 0.0
) -> Prototypes:
    """Prototypes of an SAE's features over batches of normalised images (B, C, H, W).

    Args:
        sae: reads the residual stream after block ``layer``.
        k: patches kept per feature.
        threshold: activations must be larger than this.
    """
    index = PrototypeIndex(sae.W_dec.shape[0], k, threshold, sae.W_dec.device)
    for images in batches:
        seen = capture(model, images, layers=[layer], gradients=[])
        with torch.no_grad():
            index.add(sae.encode(seen.residuals[layer][:, model.num_prefix_tokens :]))
    return index.prototypes()


@command
def main(argv: list[str] | None = None) -> None:
    """Find the prototypes of one SAE."""
    parser = argparse.ArgumentParser(prog="python -m fgg.cases.prototypes", description=__doc__)
    add_arguments(
        parser, "model", "layer", "images", "output", settings="JSON: prototypes, prototype_images, seed, device, …"
    )
    parser.add_argument("--sae", type=Path, required=True, help="SAE folder")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(JOB_THREADS)
    settings = arguments.settings
    device = resolve(settings["device"])
    model, preprocess, record = model_files.load(arguments.model, device)
    sae = load_for(arguments.sae, model, arguments.layer, model_record(record["architecture"], arguments.model))
    split = load_split(arguments.images, settings["prototype_images"], settings["seed"])
    parts = batches(len(split), images_per_batch(model, settings["batch_size"]), "prototypes")
    with arithmetic(settings["precision"], device):
        ahead = ReadAhead(split, preprocess, device)
        inputs = (ahead.batch(part) for part in parts)
        found = collect(model, sae, arguments.layer, inputs, settings["prototypes"])
    write(arguments.output, found, split.image_ids, {**settings, "split": arguments.images.stem})


def write(path: Path, found: Prototypes, image_ids: list[str], made: dict[str, Any]) -> None:
    """Write feature, rank (from 1), image_id, patch and activation; empty places have no row."""
    feature, rank = np.nonzero(found.image.cpu().numpy() >= 0)
    taken = {name: getattr(found, name).cpu().numpy()[feature, rank] for name in ("image", "patch", "activation")}
    write_table(
        path,
        {
            "feature": feature.astype(np.int64),
            "rank": rank.astype(np.int64) + 1,
            "image_id": [image_ids[image] for image in taken["image"]],
            "patch": taken["patch"],
            "activation": taken["activation"],
        },
        made,
    )


if __name__ == "__main__":
    sys.exit(main())
