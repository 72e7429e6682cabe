"""What a call of ``attribute`` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import fgg  # for fgg.plot, which is looked up when a map is shown: a change of the pictures must not rerun the maps
from fgg.models.call_arguments import names_or_numbers

if TYPE_CHECKING:
    import pandas as pd


@dataclass(repr=False)
class Attribution:
    """Relevance of the patches, and the model's prediction. B images, N patches, K classes.

    Attributes:
        relevance: float32 (B, N), patches row by row.
        predicted: int64 (B,).
        confidence: float32 (B,), probability of the predicted class.
        logits: float32 (B, K).
        target: int64 (B,), the class explained.
        gates: layer -> (B, N), the gates as applied.
        scores: layer -> (B, N), the gate scores s.
        columns: name -> (B,), what the method says about each map, such as ``completeness_residual``.
        grid: rows and columns of patches, if known.
    """

    relevance: Tensor
    predicted: Tensor
    confidence: Tensor
    logits: Tensor
    target: Tensor
    gates: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[int, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    grid: tuple[int, int] | None = None

    def __repr__(self) -> str:
        images, patches = self.relevance.shape
        gated = f", gates at layers {', '.join(map(str, self.gates))}" if self.gates else ""
        return f"Attribution({images} images, {patches} patches, target {self.target.tolist()[:8]}{gated})"

    def _repr_html_(self) -> str:
        return fgg.plot.batches.batch_html(self)

    def show(
        self,
        images: Any = None,
        *,
        names: Sequence[str] | None = None,
        preprocess: Any = None,
        most: int = 8,
        smooth: bool = False,
    ) -> np.ndarray:
        """Draw the maps, each on its own scale: beside their images, or alone if no images are given.

        Args:
            images: the images that were explained: those of a run (``run.images(8)``), a tensor (B, C, H, W), or PIL
                images.
            names: names of the images.
            preprocess: the `fgg.Preprocess` that made a tensor of the images, or that crops PIL images as the model saw
                them; known for images of a run.
            most: images that are drawn.
            smooth: interpolate between patches.

        Returns:
            The matplotlib axes: (images, 2) with images, (1, maps) without.

        Raises:
            FggError: other images than those of the maps, or values that cannot be drawn, such as NaN.
        """
        return fgg.plot.batch(
            self.relevance, images, names=names, preprocess=preprocess, grid=self.grid, most=most, smooth=smooth
        )

    def to_dataframe(self, image_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """A row per image and patch: ``image_id``, ``patch`` (row by row, from 0), ``relevance``, and the layers' gates and scores.

        Args:
            image_ids: names of the images, or images that have names, such as those of `fgg.open_run`; None numbers them.

        Raises:
            FggError: the number of names is not that of the images.
        """
        import pandas as pd

        images, patches = self.relevance.shape
        ids = names_or_numbers(image_ids, images)
        maps = {"relevance": self.relevance}
        maps |= {f"gate_{layer}": values for layer, values in self.gates.items()}
        maps |= {f"score_{layer}": values for layer, values in self.scores.items()}
        columns = {name: values.detach().cpu().flatten().numpy() for name, values in maps.items()}
        places = {"image_id": np.repeat(ids, patches), "patch": np.tile(np.arange(patches), images)}
        return pd.DataFrame({**places, **columns})


def join(parts: Sequence[Attribution]) -> Attribution:
    """Concatenate attributions of the same kind along the images."""
    if len(parts) == 1:
        return parts[0]
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("relevance", "predicted", "confidence", "logits", "target")
    }
    for name in ("gates", "scores", "columns"):
        tensors[name] = {
            key: torch.cat([getattr(part, name)[key] for part in parts]) for key in getattr(parts[0], name)
        }
    return Attribution(**tensors, grid=parts[0].grid)
