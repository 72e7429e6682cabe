"""Does a map point at what it should point at? Scores against a mask that says which patches those are.

A patch is inside if at least half of it is covered by the mask; if no patch is, those that are covered most are inside.
Scores are undefined (NaN) where the relevance is not finite, where an image has no mask, and where its mask covers nothing.
Patches of equal relevance count as if every order of them were equally likely: a score is the expectation over these
orders, so that a constant map gets exactly what random maps get on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.faithfulness.registry import metric
from fgg.models.arguments import full_precision
from fgg.models.call_arguments import as_tensor, names_or_numbers

if TYPE_CHECKING:
    import pandas as pd


class Localisation(dict[str, Tensor]):
    """Name of a score -> scores, float64 (B,); higher is better, and NaN is undefined."""

    def __repr__(self) -> str:
        images = len(next(iter(self.values()), ()))
        means = ", ".join(f"{name} {float(values.nanmean()):.3g}" for name, values in self.items())
        return f"Localisation({images} images; means: {means}; higher is better)"

    def to_dataframe(self, image_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """A row per image: ``image_id`` and a column for each score.

        Args:
            image_ids: names of the images; None numbers them.

        Raises:
            FggError: the number of names is not that of the images.
        """
        import pandas as pd

        images = len(next(iter(self.values()), ()))
        scores = {name: values.detach().cpu().numpy() for name, values in self.items()}
        return pd.DataFrame({"image_id": names_or_numbers(image_ids, images), **scores})


@full_precision
def localisation(relevance: Tensor, masks: Tensor) -> Localisation:
    """All scores of maps against masks.

    Args:
        relevance: (B, N).
        masks: (B, N), the share of each patch that is covered, 0 to 1, as `fgg.data.load.Split.coverage` gives it.

    Returns:
        ``relevance_mass``, ``relevance_rank``, ``pointing_game``, ``average_precision`` and ``pr_area``, each float64
        (B,); higher is better. NaN where a score is undefined. A dictionary with ``to_dataframe()``.

    Raises:
        FggError: no tensors, shapes that differ or are not (B, N), or masks outside 0 to 1.
    """
    if isinstance(relevance, Tensor) and isinstance(masks, Tensor):
        form = "a tensor (images, patches)"
        relevance, masks = as_tensor(relevance, "relevance", form), as_tensor(masks, "masks", form)
    functions = (relevance_mass, relevance_rank, pointing_game, average_precision, pr_area)
    return Localisation((each.__name__, each(relevance, masks)) for each in functions)


@metric(
    title="Relevance mass accuracy",
    citation="Arras, Osman and Samek 2022, CLEVR-XAI: A benchmark dataset for the ground truth evaluation of neural network explanations",
    higher_is_better=True,
    lowest=0.0,
    highest=1.0,
    quantity="Share of positive relevance inside the mask (0 to 1)",
    definition="which share of the positive relevance lies inside the mask?",
    assumes="the mask covers what the model uses, and nothing else",
    passes="none",
    short="Mass",
    place=50,
)
def relevance_mass(relevance: Tensor, masks: Tensor) -> Tensor:
    """Share of the positive relevance inside the mask, a patch counting by its coverage: (B, N), (B, N) to float64 (B,).

    Also NaN where no relevance is positive. Raises FggError like `localisation`.
    """
    _, defined = _inside(relevance, masks)
    positive = relevance.double().clamp(min=0)
    total = positive.sum(-1)
    return torch.where(defined & (total > 0), (positive * masks.to(positive)).sum(-1) / total, torch.nan)


@metric(
    title="Relevance rank accuracy",
    citation="Arras, Osman and Samek 2022, CLEVR-XAI: A benchmark dataset for the ground truth evaluation of neural network explanations",
    higher_is_better=True,
    lowest=0.0,
    highest=1.0,
    quantity="Share of the K most relevant patches inside the mask (0 to 1)",
    definition="of the K most relevant patches, which share lies inside the mask of K patches?",
    assumes="the mask covers what the model uses, and nothing else",
    passes="none",
    short="Rank",
    reads="order",
    place=51,
)
def relevance_rank(relevance: Tensor, masks: Tensor) -> Tensor:
    """Share of the K most relevant patches that are inside, K being the number inside: (B, N), (B, N) to float64 (B,).

    Raises FggError like `localisation`.
    """
    ranked, defined = _ranked(relevance, masks)
    among = ranked.position < ranked.inside[:, None]
    return torch.where(defined, (ranked.chance * among).sum(-1) / ranked.inside, torch.nan)


@metric(
    title="Pointing game",
    citation="Zhang et al. 2018, Top-Down Neural Attention by Excitation Backprop",
    higher_is_better=True,
    lowest=0.0,
    highest=1.0,
    quantity="Hits of the most relevant patch (0 to 1)",
    definition="is the most relevant patch inside the mask?",
    assumes="the mask covers what the model uses, and nothing else",
    passes="none",
    short="Pointing",
    reads="order",
    place=52,
)
def pointing_game(relevance: Tensor, masks: Tensor) -> Tensor:
    """1 if the most relevant patch is inside, else 0: (B, N), (B, N) to float64 (B,).

    Raises FggError like `localisation`.
    """
    ranked, defined = _ranked(relevance, masks)
    return torch.where(defined, ranked.chance[:, 0], torch.nan)


@metric(
    title="Average precision",
    citation="Everingham et al. 2010, The PASCAL Visual Object Classes (VOC) Challenge; without interpolation",
    higher_is_better=True,
    lowest=0.0,
    highest=1.0,
    quantity="Average precision (0 to 1)",
    definition="how pure are the most relevant patches, on average over the patches inside the mask?",
    assumes="the mask covers what the model uses, and nothing else",
    passes="none",
    short="AP",
    reads="order",
    place=53,
)
def average_precision(relevance: Tensor, masks: Tensor) -> Tensor:
    """The mean precision at the patches that are inside: (B, N), (B, N) to float64 (B,).

    Raises FggError like `localisation`.
    """
    ranked, defined = _ranked(relevance, masks)
    precision = (ranked.before + 1) / (ranked.position + 1)
    return torch.where(defined, (ranked.chance * precision).sum(-1) / ranked.inside, torch.nan)


@metric(
    title="Area under precision and recall",
    citation="Davis and Goadrich 2006, The Relationship Between Precision-Recall and ROC Curves; by trapezoids",
    higher_is_better=True,
    lowest=0.0,
    highest=1.0,
    quantity="Area under the precision-recall curve (0 to 1)",
    definition="how pure are the most relevant patches at each share of the mask that they reach?",
    assumes="the mask covers what the model uses, and nothing else",
    passes="none",
    short="PR area",
    reads="order",
    place=54,
)
def pr_area(relevance: Tensor, masks: Tensor) -> Tensor:
    """Area under precision over recall by trapezoids, from precision 1 at recall 0: (B, N), (B, N) to float64 (B,).

    Raises FggError like `localisation`.
    """
    ranked, defined = _ranked(relevance, masks)
    after = (ranked.before + 1) / (ranked.position + 1)
    before = torch.where(ranked.position == 0, 1.0, ranked.before / ranked.position.clamp(min=1))
    return torch.where(defined, (ranked.chance * (after + before) / 2).sum(-1) / ranked.inside, torch.nan)


class Ranked(NamedTuple):
    """Patches in the order of falling relevance; all but ``inside`` (B,) are (B, N).

    ``position`` counts from 0. ``chance`` is the probability that the patch there is inside, over all orders of equal
    patches; ``before`` is the expected number of inside patches before it, given that it is inside.
    """

    position: Tensor
    chance: Tensor
    before: Tensor
    inside: Tensor


def _inside(relevance: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Which patches are inside, bool (B, N), and for which images the scores are defined, bool (B,)."""
    if not isinstance(relevance, Tensor) or not isinstance(masks, Tensor):
        raise FggError("relevance and masks must be float tensors (images, patches); see torch.from_numpy")
    if relevance.ndim != 2 or not relevance.shape[1] or relevance.shape != masks.shape:
        raise FggError(
            f"relevance is {tuple(relevance.shape)} and masks are {tuple(masks.shape)}; both must be (images, patches)"
        )
    masks = masks.to(relevance.device)
    if ((masks < 0) | (masks > 1)).any():
        raise FggError(
            "masks must hold the share of each patch that is covered, 0 to 1; see fgg.data.load.Split.coverage"
        )
    half = masks >= 0.5
    most = (masks == masks.amax(-1, keepdim=True)) & (masks > 0)
    inside = torch.where(half.any(-1, keepdim=True), half, most)
    return inside, inside.any(-1) & relevance.isfinite().all(-1) & ~masks.isnan().any(-1)


def _ranked(relevance: Tensor, masks: Tensor) -> tuple[Ranked, Tensor]:
    """The ranked patches, and for which images they are defined, bool (B,)."""
    inside, defined = _inside(relevance, masks)
    values, order = relevance.sort(dim=-1, descending=True, stable=True)
    hits = inside.gather(-1, order).double()
    position = torch.arange(values.shape[1], dtype=torch.float64, device=values.device).expand_as(hits)
    starts = torch.ones_like(hits, dtype=torch.bool)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    group = starts.long().cumsum(-1) - 1  # patches of equal relevance form a group
    size, own = (torch.zeros_like(hits).scatter_add_(-1, group, each) for each in (torch.ones_like(hits), hits))
    first, reached = size.cumsum(-1) - size, own.cumsum(-1) - own  # patches, and hits, before each group
    size, own, first, reached = (each.gather(-1, group) for each in (size, own, first, reached))
    # If a patch of the group is inside, the others before it in the group are inside with this probability.
    others = (own - 1).clamp(min=0) / (size - 1).clamp(min=1)
    before = reached + (position - first) * others
    return Ranked(position, own / size, before, inside.sum(-1).double()), defined
