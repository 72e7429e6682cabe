"""How often each metric prefers the map that points at the cue to the one that points at the decoy: ``results/judged.csv``.

On planted images, the right answer is known: the model uses the cue, which has been verified by removing it, and the
decoy says nothing about the class. The two maps differ only in these places. A metric that guesses is right on half of
the images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fgg.attribution.registry import find_method
from fgg.comparison.compared import Compared
from fgg.comparison.strata import VERDICTS
from fgg.experiments import role
from fgg.statistics.paired import Row
from fgg.statistics.proportion import wilson

RIGHT, WRONG = "cue_map", "decoy_map"


def judged(own: Compared) -> Iterator[Row]:
    """A row per measure and stratum, if the grid has both maps; only images on which the model uses the cue count."""
    found = {find_method(each["method"]).name: name for name, each in own.experiments.items() if _is_reference(each)}
    if not {RIGHT, WRONG} <= set(found):
        return
    for measure in own.measures.values():
        for stratum in VERDICTS:
            inside = own.strata(measure)[stratum] & own.uses_cue()
            right, wrong = (own.values(found[name], measure.name)[inside] for name in (RIGHT, WRONG))
            difference = measure.metric.sign * (right - wrong)
            known = difference[~np.isnan(difference)]
            ties = int((known == 0).sum())
            share = float(((known > 0).sum() + ties / 2) / len(known)) if len(known) else np.nan
            low, high = wilson(share, len(known))
            about = {key: own.common[key] for key in ("dataset", "seed")}
            about |= {"metric": measure.metric.name, "fill": measure.fill, "stratum": stratum}
            counts = {"n": len(known), "n_undefined": len(difference) - len(known), "n_tied": ties}
            yield about | counts | {"share_right": share, "ci_low": low, "ci_high": high}


def _is_reference(settings: dict) -> bool:
    return role(settings) == "reference" and not settings.get("control")
