"""The paired differences from the baseline, image by image: a dot per image and experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgg.comparison.scores import experiment_scores
from fgg.faithfulness.measurable import measurable_images
from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import group, label
from fgg.report.figures import style
from fgg.report.figures.dot_plots import arrange, sections, ticks
from fgg.report.metrics_shown import first_fills, measures_in, rows_of

MOST_DOTS = 400  # per line; more images are shown by this many quantiles
FEW = 40  # up to this number of images, dots are larger
EDGES = (1, 99)  # percentiles of the gated experiments that limit the axis


def _finding(others: pd.DataFrame, measures: Mapping[str, Measure], baseline: str) -> str:
    """What the title says: the share of the images that the gates by activation × gradient improve."""
    rows = pd.concat([rows_of(others, measure) for measure in measures.values()])
    gates = rows[rows["construction"].eq("combined") & rows["control"].isna() & ~rows["shuffle_decoder"].eq(True)]
    shares = 100 * gates["share_improved"].dropna()
    if shares.empty:
        return f"differences from {baseline}, image by image"
    ends = list(dict.fromkeys([f"{shares.min():.0f}", f"{shares.max():.0f}"]))
    return f"gates by activation × gradient improve {' to '.join(ends)}\u00a0% of the images over {baseline}"


def pairs_figure(
    frame: pd.DataFrame, results: str | Path, folder: str | Path, known: Mapping[str, Measure] | None = None
) -> None:
    """Draw a panel per metric and a line of dots per experiment: the improvement of each measurable image.

    If a metric has several fills, the first one is drawn.
    """
    first = frame.iloc[0]
    name = f"{first['dataset']}_paired_differences"
    others = frame[frame["experiment"] != first["baseline"]]
    if others.empty:
        text = f"The grid of experiments holds {first['baseline']} alone, so there is no difference from it."
        style.remark(folder, name, f"{first['dataset']}: no paired differences", text)
        return
    measures = first_fills(measures_in(frame, known))
    scores, base = _scores(frame, results, measures), Path(results) / first["dataset"]
    lines = arrange(sections(rows_of(others, next(iter(measures.values()))).assign(n=first["n_images"])))
    with style.figure(len(lines) * style.ROW + 1.35, ncols=len(measures), sharey=True, squeeze=False) as (fig, (axes,)):
        ticks(axes, lines)
        for axis, measure in zip(axes, measures.values(), strict=True):
            own = rows_of(others, measure).set_index("experiment")
            inside = measurable_images(base, measure.fill, scores[first["baseline"]].index)
            gains = {one: _gain(scores, one, first["baseline"], measure, inside) for one in own.index}
            axis.set_xlim(*_limits(own, gains))
            axis.axvline(0, color=style.BLACK, linewidth=0.8, linestyle=":", zorder=1)
            for y, _, line in lines:
                if line is not None:
                    row = own.loc[line["experiment"]]
                    _dots(axis, y, gains[line["experiment"]], style.GROUP_STYLES[group(line)][0])
                    _share(axis, y, row)
            axis.annotate("better", (1.02, 0.25), xycoords=("axes fraction", "data"), fontsize=7, color=style.GREY)
            axis.set_title(f"{measure.metric.short or measure.metric.title}\nbetter →")
            axis.locator_params(axis="x", nbins=3)
        baseline = label(frame[frame["experiment"] == first["baseline"]].iloc[0])
        style.headline(
            fig, f"{first['dataset']}: {_finding(others, measures, baseline)}; {first['n_images']} measurable images"
        )
        dots = "image" if first["n_images"] <= MOST_DOTS else f"of {MOST_DOTS} quantiles of the images"
        style.note(
            fig,
            f"A dot: one {dots}, improvement in the metric's unit; at the panel's edge: beyond it. "
            "Black: the mean, an arrow if beyond. On the right: share of images that are better than with the baseline.",
        )
        style.save(fig, folder, name)


def _scores(frame: pd.DataFrame, results: str | Path, measures: Mapping[str, Measure]) -> dict[str, pd.DataFrame]:
    place = Path(results) / frame["dataset"].iloc[0]
    return {name: experiment_scores(place, name, measures) for name in dict.fromkeys(frame["experiment"])}


def _gain(
    scores: dict[str, pd.DataFrame], name: str, baseline: str, measure: Measure, inside: np.ndarray
) -> np.ndarray:
    """The defined improvements per image."""
    difference = scores[name][measure.name] - scores[baseline][measure.name]
    return (measure.metric.sign * difference[inside]).dropna().to_numpy()


def _limits(rows: pd.DataFrame, gains: dict[str, np.ndarray]) -> tuple[float, float]:
    """Axis limits for nearly all images of the gated experiments and their controls, or else of all experiments."""
    gated = [gains[name] for name in rows.index[rows["construction"].notna()]] or list(gains.values())
    values = np.concatenate([[0.0], *gated])
    return style.limits(np.percentile(values, EDGES), [values.mean()])


def _dots(axis: Any, y: float, gain: np.ndarray, colour: str) -> None:
    if not len(gain):
        return
    values = np.sort(gain) if len(gain) <= MOST_DOTS else np.quantile(gain, np.linspace(0, 1, MOST_DOTS))
    spread = 0.6 * ((np.arange(len(values)) * 0.618034) % 1 - 0.5)  # separates neighbours, the same in every run
    axis.plot(
        values.clip(*axis.get_xlim()), y + spread, ".", color=colour, markersize=2.4 if len(values) > FEW else 5,
        markeredgewidth=0, alpha=0.45, zorder=2, rasterized=True, clip_on=False,
    )  # fmt: skip
    mean = gain.mean()
    if outside := style.beyond(axis, mean):
        axis.plot(outside[0], y, outside[1], color=style.BLACK, markersize=3, zorder=3, clip_on=False)
    else:
        axis.plot([mean] * 2, [y - 0.38, y + 0.38], color=style.BLACK, linewidth=1.6, zorder=3)


def _share(axis: Any, y: float, row: pd.Series) -> None:
    share = "–" if np.isnan(row["share_improved"]) else f"{100 * row['share_improved']:.0f} %"
    text = "equal" if row["n_tied"] == row["n"] > 0 else share
    axis.annotate(text, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=7, annotation_clip=False)
