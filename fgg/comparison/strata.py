"""The groups of images that verdicts are given on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

MEASURABLE, ALL = "measurable", "all"
VERDICTS = (MEASURABLE, ALL)  # the strata with verdicts, the first one first
MOST_CLASSES = 20  # with more classes there is no stratum for each


def strata(frame: pd.DataFrame, measurable: np.ndarray, classes: Sequence[str] = ()) -> Mapping[str, np.ndarray]:
    """Name -> which images belong to it, bool (n,).

    Args:
        frame: label and predicted of the images, as the baseline has them.
        measurable: bool (n,).
        classes: names by label; if they are few, each class is a stratum.
    """
    label = frame["label"].to_numpy()
    correct = label == frame["predicted"].to_numpy()
    found = {MEASURABLE: measurable, ALL: np.ones(len(frame), dtype=bool), "correct": correct, "incorrect": ~correct}
    if len(classes) <= MOST_CLASSES:
        found |= {f"class {name}": label == number for number, name in enumerate(classes)}
    return found
