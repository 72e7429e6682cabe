"""Which class is explained: the predicted one, the label, or one by its name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fgg.errors import FggError

PREDICTED, LABEL = "predicted", "label"


def explained_class(setting: str, labels: np.ndarray, classes: Sequence[str]) -> Tensor | None:
    """The class to explain of each image, int64 (B,); None means the predicted class.

    Args:
        setting: ``predicted``, ``label``, or a class name.
        labels: int64 (B,).
        classes: the model's classes.

    Raises:
        FggError: there is no such class, or an image has no label.
    """
    if setting == PREDICTED:
        return None
    if setting == LABEL:
        if ((labels < 0) | (labels >= len(classes))).any():
            raise FggError("target: label needs a label for every image; explain another split, or target: predicted")
        return torch.from_numpy(np.asarray(labels, dtype=np.int64).copy())
    if setting not in classes:
        known = f"{', '.join(classes[:20])}{', …' if len(classes) > 20 else ''}"
        raise FggError(f"target: {setting!r} is not a class of the model; choose from predicted, label, {known}")
    return torch.full((len(labels),), list(classes).index(setting), dtype=torch.int64)
