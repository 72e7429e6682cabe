"""Verdicts as tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from fgg.comparison.strata import ALL, MEASURABLE
from fgg.comparison.verdicts import BETTER, WORSE
from fgg.experiments import TRANSMM
from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import method_title, partner_title
from fgg.report.metrics_shown import rows_of


def verdict_table(frame: pd.DataFrame, measures: Mapping[str, Measure]) -> Iterator[str]:
    """Lines of Markdown: a row per gate and what it is compared with, a column per measure."""
    yield "| gated layers | against | " + " | ".join(m.metric.title for m in measures.values()) + " |"
    yield "|---|---|" + "---|" * len(measures)
    for (_, against, partner), rows in frame.groupby(["experiment", "against", "partner"], sort=False):
        first = rows.iloc[0]
        cells = [cell(rows_of(rows, measure)) for measure in measures.values()]
        if any(cells):
            title = partner_title(str(against), str(partner))
            yield f"| {gated_what(first)}{strength(first, frame)} | {title} | {' | '.join(cells)} |"


def pooled_table(frame: pd.DataFrame, measures: Mapping[str, Measure]) -> Iterator[str]:
    """The combined gates against TransMM on measurable images, pooled over runs."""
    own = frame[(frame["against"] == "transmm") & (frame["stratum"] == MEASURABLE)]
    yield "| gated layers | metric, fill | change | 95 % interval | a further run | runs better, worse | verdict |"
    yield "|---|---|---|---|---|---|---|"
    for _, rows in own.groupby("experiment", sort=False):
        for measure in measures.values():
            for row in rows_of(rows, measure).to_dict("records"):
                title = f"{measure.metric.title}, {measure.fill.replace('_', ' ')}" if measure.fill else measure.title
                ends = [_share(row, name) for name in ("ci_low", "ci_high", "prediction_low", "prediction_high")]
                runs = f"{row['n_better']}, {row['n_worse']} of {row['n_runs']}"
                cells = [
                    row["layers"],
                    title,
                    _share(row, "mean"),
                    f"{ends[0]} to {ends[1]}",
                    f"{ends[2]} to {ends[3]}",
                    runs,
                ]
                yield f"| {' | '.join(cells)} | {row['verdict']}{_p(row)} |"
    yield ""
    yield (
        "Change in % of TransMM's mean, positive = better, pooled by random effects over the seeds (Hartung and Knapp), measurable "
        "images, *p* after Holm. *A further run*: prediction interval. *Runs better, worse*: by each run's own adjusted verdict, those in values included."
    )


def _share(row: Mapping, name: str) -> str:
    """A number of the metric's unit in % of the partner's mean."""
    reference = abs(row["partner_mean"])
    return "?" if pd.isna(row[name]) or not reference else f"{round(100 * row[name] / reference, 1) + 0.0:+.1f} %"


def _p(row: Mapping) -> str:
    if pd.isna(row["p_adjusted"]):
        return ""
    return " (*p* < 0.001)" if row["p_adjusted"] < 0.001 else f" (*p* = {row['p_adjusted']:.3f})"


def cell(rows: pd.DataFrame) -> str:
    """A verdict on measurable images with its numbers, and in brackets the verdict on all images if it differs."""
    shown, every = (rows[rows["stratum"] == stratum] for stratum in (MEASURABLE, ALL))
    if shown.empty:
        return ""
    text = _verdict(shown.iloc[0])
    if len(every) and every.iloc[0]["verdict"] != shown.iloc[0]["verdict"]:
        text += f" [{_verdict(every.iloc[0])}]"
    return f"**{text}**" if shown.iloc[0]["verdict"] in (BETTER, WORSE) else text


def _verdict(row: pd.Series) -> str:
    if pd.isna(row["p_adjusted"]):
        return row["verdict"]
    p = "*p* < 0.001" if row["p_adjusted"] < 0.001 else f"*p* = {row['p_adjusted']:.3f}"
    change = "" if pd.isna(row["improvement_pct"]) else f"{round(row['improvement_pct'], 1) + 0.0:+.1f} %, "
    return f"{row['verdict']} ({change}{p})"


def gated_what(row: pd.Series) -> str:
    """The layers that are gated, after the method's title unless it is TransMM."""
    method = row.get("method", TRANSMM)
    return row["layers"] if pd.isna(method) or method == TRANSMM else f"{method_title(method)}, {row['layers']}"


def strength(row: pd.Series, frame: pd.DataFrame) -> str:
    """Clamp and alpha of a gate, if they differ among the gates of the frame."""
    if frame["clamp_max"].nunique() == 1 and frame["alpha"].nunique() == 1:
        return ""
    return f", clamp {row['clamp_max']:g}, alpha {row['alpha']:g}"
