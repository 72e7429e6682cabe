"""The groups of images for which verdicts are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

MEASURABLE, ALL = "measurable", "all"
VERDICTS = (MEASURABLE, ALL)  # the strata with verdicts, the main one first
MOST_CLASSES = 20  # with more classes, there are no strata by class


def strata(frame: pd.DataFrame, measurable: np.ndarray, classes: Sequence[str] = ()) -> Mapping[str, np.ndarray]:
    """Name -> which images belong to it, bool (n,).

    Args:
        frame: label and predicted class of the images, from the baseline's table.
        measurable: bool (n,).
        classes: class names by label; each class is a stratum if there are at most `MOST_CLASSES`.
    """
    label = frame["label"].to_numpy()
    correct = label == frame["predicted"].to_numpy()
    found = {MEASURABLE: measurable, ALL: np.ones(len(frame), dtype=bool), "correct": correct, "incorrect": ~correct}
    if len(classes) <= MOST_CLASSES:
        found |= {f"class {name}": label == number for number, name in enumerate(classes)}
    return found
