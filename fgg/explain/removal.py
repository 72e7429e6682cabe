"""How the probability of an image's class reacts when the patches that a map calls most relevant are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.data.preprocess import Preprocess
from fgg.explain.gate_effect import most_relevant
from fgg.faithfulness.checks import probability
from fgg.models.vit import patch_size
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import channel_values, make_fill
from fgg.randomness import content_id, generator

LEAST_DROP = 0.05  # the default of metrics.measurable.least_drop


@dataclass(frozen=True)
class Removal:
    """The probability of the explained class after patches were removed with one fill.

    Attributes:
        fill: what replaced the patches.
        patches: how many were removed.
        of: N, the number of patches.
        clean: the probability of the untouched image.
        filled: that with every patch removed; NaN if the model then has nothing left to read.
        maps: map -> the probability after its most relevant patches were removed.
        random: the probabilities after as many random patches were removed, one per draw.
    """

    fill: str
    patches: int
    of: int
    clean: float
    filled: float
    maps: dict[str, float]
    random: list[float]

    @property
    def full_drop(self) -> float:
        """The fall of the probability when every patch is removed."""
        return self.clean - self.filled

    @property
    def measurable(self) -> bool:
        """Whether the patches matter enough for the probability to say anything about a map."""
        return self.full_drop >= LEAST_DROP  # False for NaN

    def below(self, name: str) -> int:
        """The number of random draws whose probability is above that of the map."""
        return sum(self.maps[name] < drawn for drawn in self.random)


def patches_of(percent: float, patches: int) -> int:
    """The number of patches that are a percentage of all, at least one."""
    return max(1, round(patches * percent / 100))


def random_masks(patches: int, count: int, draws: int, seed: int, content: str) -> np.ndarray:
    """Random subsets of ``count`` patches, keyed by (seed, the image's content): bool (draws, N)."""
    found = np.zeros((draws, patches), dtype=bool)
    for draw in range(draws):
        chosen = generator(seed, "explain", content, draw).permutation(patches)[:count]
        found[draw, chosen] = True
    return found


def removals(
    model: VisionTransformer,
    image: Tensor,
    preprocess: Preprocess,
    maps: Mapping[str, np.ndarray],
    target: int,
    fills: Sequence[str],
    percent: float,
    draws: int,
    seed: int,
    name: str,
) -> list[Removal]:
    """Remove the most relevant patches of every map, and random ones, with every fill.

    Args:
        image: normalised, (1, C, H, W).
        maps: map -> relevance, (N,).
        target: the class whose probability is read.
        fills: names from `fgg.catalogue.FILLS`, or numbers as text.
        percent: share of the patches that is removed.
        draws: number of random subsets.
        seed: determines the random subsets.
        name: determines, together with ``seed``, what ``noise`` and ``road`` draw.

    Raises:
        FggError: an unknown fill, or logits that are not finite.
    """
    engine = Perturber(model, image)
    count = patches_of(percent, engine.patches)
    masks = np.zeros((len(maps) + draws + 1, engine.patches), dtype=bool)
    for row, relevance in zip(masks, maps.values(), strict=False):
        row[most_relevant(relevance, count)] = True
    content = content_id(image.detach().float().cpu().numpy())  # an image answers the same under any name
    masks[len(maps) : -1] = random_masks(engine.patches, count, draws, seed, content)
    masks[-1] = True
    asked, chosen = torch.from_numpy(masks)[None].to(image.device), torch.tensor([target], device=image.device)
    clean = float(probability(engine.clean[:, None], chosen))
    found = []
    for fill in fills:
        made = make_fill(fill, engine.images, patch_size(model), channel_values(preprocess), [name], seed)
        values = probability(engine.using(made).logits(asked), chosen)[0].tolist()
        own = dict(zip(maps, values, strict=False))
        found.append(
            Removal(made.name, count, engine.patches, clean, values[-1], own, values[len(maps) : len(maps) + draws])
        )
    return found
