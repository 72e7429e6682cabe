"""An instance of a dataset (a dataset with its seeds), with all that the comparison needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fgg.comparison.costs import costs, patches_of_maps
from fgg.comparison.order_only import Reader, can_be_told_apart, order_only
from fgg.comparison.scores import Scores, read_scores
from fgg.comparison.strata import strata
from fgg.faithfulness.measurable import measurable_images
from fgg.faithfulness.measures import Measure, measures
from fgg.faithfulness.registry import defaults
from fgg.statistics.bootstrap import Intervals
from fgg.statistics.paired import MARGIN, Row, paired_later, t_test

NO_ORDER = {"order_difference": np.nan, "order_se": np.nan, "order_p_value": np.nan}


@dataclass(frozen=True)
class Compared:
    """An instance, and the settings of its comparison.

    Attributes:
        place: the folder of its results.
        common: columns that are the same in all its rows.
        experiments: id -> settings.
        measures: name -> measure.
        scores: id -> data frame of scores.
        notes: id -> remark.
        classes: class names by label.
        settings: of the comparison.
        intervals: those of the comparison, which are computed together.
    """

    place: Path
    common: Row
    experiments: Mapping[str, Mapping[str, Any]]
    measures: Mapping[str, Measure]
    scores: Scores
    notes: Mapping[str, str]
    classes: Sequence[str]
    settings: Mapping[str, Any]
    intervals: Intervals
    _known: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def values(self, name: str, column: str) -> np.ndarray:
        """A column of an experiment's scores, float64 (n,); all experiments have the images in the same order."""
        return self.scores[name][column].to_numpy(np.float64)

    def strata(self, measure: Measure) -> Mapping[str, np.ndarray]:
        """The groups of images for a measure, based on the baseline's predictions."""
        reference = self.scores[self.settings["baseline"]]
        return strata(reference, self.measurable(measure), self.classes)

    def measurable(self, measure: Measure) -> np.ndarray:
        """Which images are measurable, bool (n,)."""
        if (measure.fill,) not in self._known:
            ids = self.scores[self.settings["baseline"]].index
            self._known[(measure.fill,)] = measurable_images(self.place, measure.fill, ids)
        return self._known[(measure.fill,)]

    def uses_cue(self) -> np.ndarray:
        """On which images the model uses the planted cue, bool (n,); all, where none is planted."""
        return measurable_images(self.place, "", self.scores[self.settings["baseline"]].index)

    def costs(self, name: str) -> Row:
        """The role and the cost of an experiment."""
        if ("patches",) not in self._known:
            self._known[("patches",)] = patches_of_maps(self.place, self.settings["baseline"])
        if ("costs", name) not in self._known:
            self._known["costs", name] = costs(self.place, name, self.experiments[name], self._known[("patches",)])
        return self._known["costs", name]

    def about(self, measure: Measure, stratum: str, inside: np.ndarray) -> Row:
        """The columns that identify a row."""
        return {
            "metric": measure.metric.name,
            "fill": measure.fill,
            "higher_is_better": measure.metric.higher_is_better,
            "stratum": stratum,
            "n_images": int(inside.sum()),
            "n_measurable": int((inside & self.measurable(measure)).sum()),
            "told_apart": can_be_told_apart(measure),
        }

    def pair(self, name: str, partner: str, measure: Measure, inside: np.ndarray) -> Row:
        """The paired statistics of two experiments on some images, as `paired_later` gives them."""
        first, second = (self.values(each, measure.name)[inside] for each in (name, partner))
        margin = self.settings.get("equivalence_margin", MARGIN)
        return paired_later(first, second, measure.metric.sign, self.intervals, margin)

    def order_part(self, name: str, partner: str, measure: Measure, inside: np.ndarray) -> Row:
        """The gain over the partner that is due to the order of a map alone, in the metric's unit."""
        own = self._order_only(name, partner, measure)
        if own is None:
            return NO_ORDER
        found = t_test(own[inside] - self.values(partner, measure.name)[inside])
        return dict(zip(NO_ORDER, found, strict=True))

    def _order_only(self, name: str, partner: str, measure: Measure) -> np.ndarray | None:
        """The scores of a map's order alone, float64 (n,)."""
        if (name, partner, measure.name) not in self._known:
            reader = self._known.setdefault(("reader", ""), Reader(self.place))
            found = order_only(self.place, name, partner, measure, self.settings["protocol"], reader)
            self._known[name, partner, measure.name] = None if found is None else found.to_numpy(np.float64)
        return self._known[name, partner, measure.name]


def compared(results: Path, instance: str, settings: Mapping[str, Any], intervals: Intervals | None = None) -> Compared:
    """Read an instance's scores. Raises the same errors as `read_scores`."""
    experiments, own_measures = settings["experiments"][instance], measures_of(settings, instance)
    place = results / instance
    scores = read_scores(place, list(experiments), settings["baseline"], own_measures)
    about = settings.get("instances", {}).get(instance, {"dataset": instance, "seed": settings["seed"]})
    common = {
        "dataset": about["dataset"],
        "seed": str(about["seed"]),
        "n_experiments_tried": len(experiments) - 1,
        "n_skipped": settings.get("skipped", {}).get(instance, 0),
        "protocol": settings["protocol"],
        "precision": settings["precision"],
    }
    notes = _notes(settings, instance, scores)
    classes = settings.get("classes", {}).get(instance, ())
    intervals = intervals or Intervals(settings["seed"])
    return Compared(place, common, experiments, own_measures, scores, notes, classes, settings, intervals)


def measures_of(settings: Mapping[str, Any], instance: str) -> dict[str, Measure]:
    """The measures of an instance, by name, from the settings of a comparison."""
    own = settings.get("metrics", {}).get(instance)
    return measures(dict(own) if own else {name: ["mean"] for name in defaults()})


def _notes(settings: Mapping[str, Any], instance: str, scores: Scores) -> dict[str, str]:
    """The given note of every experiment, and the number of images with another prediction than the baseline's."""
    given = settings.get("notes", {}).get(instance, {})
    predicted = scores[settings["baseline"]]["predicted"]
    notes = {}
    for name, frame in scores.items():
        other = int((frame["predicted"] != predicted).sum())
        extra = f"{other} images predicted otherwise than by {settings['baseline']}" if other else ""
        notes[name] = "; ".join(filter(None, (given.get(name, ""), extra)))
    return notes
