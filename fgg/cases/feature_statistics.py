"""What the features of an SAE do, and which get a page: ``python -m fgg.cases.feature_statistics``.

Two passes. Over the explained images: each feature's share of the score of the gate by activation x gradient. Over the
images that prototypes come from: how often and how strongly each feature is active, and, for the features that get a page,
the distribution of its activations, its classes, and the features that are active on the same patches.

Letters for shapes: B images, N patches, F features, K features with a page, C classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.cases.case_tables import read_rows
from fgg.cases.features import contributions
from fgg.cases.prototypes import MOST_FLOATS
from fgg.data.load import explained_split, load_split
from fgg.data.read_ahead import ReadAhead
from fgg.jobs.command import add_arguments, command
from fgg.models import model_files
from fgg.models.capture import capture
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.models.vit import at_patches, patch_size
from fgg.progress import batches
from fgg.saes.provenance import metadata_of, model_record
from fgg.saes.sae import load_for
from fgg.tables import read_csv, read_table, write_table

BINS = 24  # of the histogram of a feature's activations
PARTNERS = 8  # co-active features that a page names


@dataclass
class Run:
    """A model with the SAE of a layer, and how it is run."""

    model: VisionTransformer
    sae: Any
    layer: int
    batch: int
    precision: str

    def codes(self, images: Tensor) -> Iterator[Tensor]:
        """The codes (b, N, F) of some of the images at a time, as few as `MOST_FLOATS` allow, in their order."""
        with arithmetic(self.precision, images.device):
            seen = capture(self.model, images, layers=[self.layer], gradients=[])
        rows = at_patches(self.model, seen.residuals[self.layer])
        for part in rows.split(self._step(rows)):
            yield self._encode(part)

    def terms(self, images: Tensor, target: Tensor) -> Iterator[Tensor]:
        """The terms (b, N, F) of the gate's score for the class ``target`` (B,), some of the images at a time."""
        with arithmetic(self.precision, images.device):
            seen = capture(self.model, images, target, layers=[self.layer])
        found, decoder = (seen.residuals, seen.gradients), self.sae.W_dec.detach()
        rows, gradients = (at_patches(self.model, values[self.layer]) for values in found)
        step = self._step(rows)
        for part, slopes in zip(rows.split(step), gradients.split(step), strict=True):
            codes = self._encode(part)
            with arithmetic(self.precision, images.device):
                along = slopes @ decoder.T
            yield contributions("combined", codes, along)

    def _encode(self, rows: Tensor) -> Tensor:
        # What is yielded is counted outside the context, in full precision.
        with arithmetic(self.precision, rows.device), torch.no_grad():
            return self.sae.encode(rows)

    def _step(self, rows: Tensor) -> int:
        return max(1, MOST_FLOATS // (rows.shape[1] * len(self.sae.W_dec)))


def shares_of_score(terms: Iterable[Tensor]) -> np.ndarray:
    """Mean over patches of |term| / sum of |terms|, from terms (b, N, F): float64 (F,), which add up to 1.

    Patches on which all terms are 0 do not count; zeros if there are no others.
    """
    total, patches = torch.zeros(()), 0
    for part in terms:
        sizes = part.double().abs().flatten(0, 1)
        whole = sizes.sum(1, keepdim=True)
        kept = whole[:, 0] > 0
        total = total.to(sizes) + (sizes[kept] / whole[kept]).sum(0)
        patches += int(kept.sum())
    return (total / max(1, patches)).cpu().numpy()


def with_pages(shares: np.ndarray, named: Iterable[int], most: int) -> list[int]:
    """The features that get a page: those of case studies, and the ``most`` with the largest share; ascending."""
    top = np.argsort(-shares, kind="stable")[:most]
    return sorted({*named, *(int(feature) for feature in top if shares[feature] > 0)})


class Activity:
    """Counts what features do over a stream of codes. A feature is active where its code is above 0.

    Args:
        features: F.
        pages: the K features whose details are counted.
        highest: (K,), the largest activation of each, at which its histogram ends.
        classes: C.
    """

    def __init__(self, features: int, pages: Sequence[int], highest: Sequence[float], classes: int) -> None:
        self.pages, self.tokens = list(pages), np.zeros(classes, dtype=np.int64)
        self.highest = np.asarray(highest, dtype=np.float64)
        self.active, self.sums = np.zeros(features, dtype=np.int64), np.zeros(features)
        self.histogram = np.zeros((len(pages), BINS), dtype=np.int64)
        self.class_sums = np.zeros((len(pages), classes))
        self.together = np.zeros((len(pages), features), dtype=np.int64)

    def add(self, codes: Tensor, labels: np.ndarray) -> None:
        """Count the codes (b, N, F) of the next images, whose classes are labels (b,)."""
        codes = codes.detach().float()
        flat = codes.flatten(0, 1)
        active = flat > 0
        self.active += active.sum(0).cpu().numpy()
        self.sums += torch.where(active, flat, 0.0).sum(0, dtype=torch.float64).cpu().numpy()
        self.tokens += np.bincount(labels, minlength=len(self.tokens)) * codes.shape[1]
        own = torch.as_tensor(self.pages, device=codes.device, dtype=torch.int64)
        # Products of zeros and ones: exact in float32 for fewer than 2**24 rows.
        for part in active.split(2**20):
            both = part[:, own].float().T @ part.float()
            self.together += both.round().long().cpu().numpy()
        values = codes[..., own].clamp(min=0).double().cpu().numpy()
        np.add.at(self.class_sums.T, labels, values.sum(1))
        for place, column in enumerate(values.reshape(-1, len(self.pages)).T):
            found = column[column > 0]
            scale = BINS / self.highest[place] if self.highest[place] > 0 else 0.0
            places = np.minimum((found * scale).astype(np.int64), BINS - 1)
            self.histogram[place] += np.bincount(places, minlength=BINS)

    def partners(self, place: int) -> list[tuple[int, float, float]]:
        """The features that are most often active together with a page's feature: feature, Jaccard, Jaccard by chance.

        Jaccard is patches where both are active over patches where at least one is. By chance: if the two were active
        independently of each other, at their own frequencies. Largest first; ties by the feature's number.
        """
        feature, both, tokens = self.pages[place], self.together[place], int(self.tokens.sum())
        either = self.active[feature] + self.active - both
        jaccard = np.where(both > 0, both / np.maximum(either, 1), 0.0)
        jaccard[feature] = 0.0
        order = [int(other) for other in np.argsort(-jaccard, kind="stable")[:PARTNERS] if jaccard[other] > 0]
        a, b = self.active[feature] / max(1, tokens), self.active / max(1, tokens)
        return [(other, float(jaccard[other]), float(a * b[other] / (a + b[other] - a * b[other]))) for other in order]


@command
def main(argv: list[str] | None = None) -> None:
    """Measure the features of one SAE."""
    parser = argparse.ArgumentParser(prog="python -m fgg.cases.feature_statistics", description=__doc__)
    add_arguments(
        parser, "model", "layer", "output", settings="JSON: pages, prototype_images, max_images, seed, …",
        images="the prototypes' split (.parquet)",
    )  # fmt: skip
    parser.add_argument("--explained-images", type=Path, required=True, help="the explained split (.parquet)")
    parser.add_argument("--maps", type=Path, required=True, help="a table of maps, for the classes that they explain")
    parser.add_argument(
        "--prototypes", type=Path, required=True, help="the prototypes of the SAE's features (.parquet)"
    )
    parser.add_argument("--cases", nargs="*", default=[], type=Path, help="folders of case studies")
    parser.add_argument("--sae", type=Path, required=True, help="SAE folder")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(JOB_THREADS)
    settings, device = arguments.settings, resolve(arguments.settings["device"])
    model, preprocess, record = model_files.load(arguments.model, device)
    sae = load_for(arguments.sae, model, arguments.layer, model_record(record["architecture"], arguments.model))
    batch = images_per_batch(model, settings["batch_size"])
    run = Run(model, sae, arguments.layer, batch, settings["precision"])

    explained = explained_split(arguments.explained_images, settings)
    target = torch.from_numpy(read_rows(str(arguments.maps), explained.image_ids, ("target",))["target"])

    def terms() -> Iterator[Tensor]:
        ahead = ReadAhead(explained, preprocess, device)
        for part in batches(len(explained), batch, "shares of the score"):
            yield from run.terms(ahead.batch(part), target[part].to(device))

    shares = shares_of_score(terms())
    pages = with_pages(shares, named_in(arguments.cases, arguments.layer), settings["pages"])
    prototypes = read_table(arguments.prototypes, columns=["feature", "rank", "activation"]).to_pandas()
    first = prototypes[prototypes["rank"] == 1]
    highest = np.zeros(len(shares))
    highest[first["feature"]] = first["activation"]
    split = load_split(arguments.images, settings["prototype_images"], settings["seed"])
    activity = Activity(len(shares), pages, highest[pages], len(split.classes))
    ahead = ReadAhead(split, preprocess, device)
    for part in batches(len(split), batch, "activations"):
        start = part.start
        for codes in run.codes(ahead.batch(part)):
            activity.add(codes, split.labels[start : start + len(codes)])
            start += len(codes)
    size, patch = preprocess.output_size, patch_size(model)
    about = {
        "grid": [size[0] // patch[0], size[1] // patch[1]],
        "classes": split.classes,
        "tokens": activity.tokens.tolist(),
        "images": len(split),
        "explained_images": len(explained),
        "split": arguments.images.stem,
        "explained_split": arguments.explained_images.stem,
        "architecture": record["architecture"],
        "hook": str(metadata_of(sae).get("hook_name") or f"blocks.{arguments.layer}.hook_resid_post"),
        "kind": str(metadata_of(sae).get("kind") or "loaded"),
    }
    write_table(arguments.output, columns_of(shares, highest, activity), settings, about)


def named_in(folders: Sequence[Path], layer: int) -> set[int]:
    """The features of a layer that case studies name."""
    frames = [read_csv(folder / "cases.csv") for folder in folders]
    return {int(n) for frame in frames for n in frame.loc[frame["layer"] == layer, "feature"].dropna()}


def columns_of(shares: np.ndarray, highest: np.ndarray, activity: Activity) -> dict[str, Any]:
    """The table: a row per feature; what only pages show is null for the others."""
    place = {feature: at for at, feature in enumerate(activity.pages)}

    def details(value: Callable[[int], list]) -> list[list | None]:
        return [value(place[feature]) if feature in place else None for feature in range(len(shares))]

    tokens = int(activity.tokens.sum())
    partners = [activity.partners(at) for at in range(len(activity.pages))]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = activity.class_sums / activity.tokens
        parts = activity.class_sums / activity.class_sums.sum(1, keepdims=True)
    return {
        "feature": np.arange(len(shares)),
        "score_share": shares,
        "active": activity.active,
        "frequency": activity.active / max(1, tokens),
        "mean_activation": activity.sums / np.maximum(activity.active, 1),
        "max_activation": highest,
        "page": [feature in place for feature in range(len(shares))],
        "histogram": details(lambda at: activity.histogram[at].tolist()),
        "class_mean": details(lambda at: means[at].tolist()),
        "class_share": details(lambda at: parts[at].tolist()),
        "partner": details(lambda at: [other for other, _, _ in partners[at]]),
        "jaccard": details(lambda at: [value for _, value, _ in partners[at]]),
        "jaccard_by_chance": details(lambda at: [value for _, _, value in partners[at]]),
    }


if __name__ == "__main__":
    sys.exit(main())
