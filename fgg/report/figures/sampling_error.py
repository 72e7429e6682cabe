"""The sampling error of Faithfulness Correlation due to random subsets, compared with the spread between images.

It is computed from the run's own responses of the model. They are divided into trials, and the spread of the score
between trials is its error. The error of a difference between two experiments is computed from the differences, since
both use the same subsets.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

from fgg.report.experiment_names import label, place, varies
from fgg.report.figures import style
from fgg.statistics.correlation import rank_correlation
from fgg.tables import matrix, read_settings, read_table

MOST_IMAGES = 1000
FEWEST_IMAGES = 5
FEWEST_RUNS = 5  # per trial; a rank correlation of fewer subsets is meaningless


def sampling_figure(frame: pd.DataFrame, results: str | Path, folder: str | Path) -> None:
    """Draw the error of one score against the number of subsets, and the sources of the errors of scores and means.

    ``frame`` has one row per experiment, for the metric Faithfulness Correlation.
    """
    first = frame.iloc[0]
    base = Path(results) / first["dataset"]
    settings = read_settings(base / "responses.parquet")
    total = settings["runs"] * settings["trials"]
    lengths = [runs for runs in (5, 10, 20, 40, 80, 160, 320) if FEWEST_RUNS <= runs <= total // 2]
    own_length = settings["runs"] if settings["trials"] > 1 else settings["runs"] // 2
    images, name = first["n_images"], f"{first['dataset']}_sampling_error"
    quantities = _quantities(frame, base)
    few = ""
    if not lengths or own_length < FEWEST_RUNS or not quantities:
        few = f"{total} random subsets per image are too few to measure the error; raise runs or trials."
    elif images < FEWEST_IMAGES:
        few = f"{images} images are too few to tell the error of drawing subsets from the spread between images."
    if few:
        style.remark(folder, name, f"{first['dataset']}: error of Faithfulness Correlation unknown", few)
        return
    colours, markers = (style.BLACK, style.VERMILION), ("D", "o")
    with style.figure(3.6, ncols=2, width_ratios=(1, 1)) as (fig, (left, right)):
        lines: list[str] = []
        parts: list[float] = []  # of the variance between images that drawing subsets makes
        for number, (text, scores) in enumerate(quantities.items()):
            errors = [trial_error(scores, runs) for runs in lengths]
            left.plot(lengths, errors, color=colours[number], marker=markers[number], label=text)
            now = trial_error(scores, own_length) * (own_length / total) ** 0.5
            left.plot([lengths[-1], total], [errors[-1], now], ":", color=colours[number], zorder=1)
            left.plot(total, now, markers[number], color=colours[number], markerfacecolor="white")
            whole = scores(total)[:, 0]
            spread, n = float(np.nanstd(whole, ddof=1)), int((~np.isnan(whole)).sum())
            parts.append((now / spread) ** 2 if spread else np.nan)
            for share, what in ((1.0, "one image"), (n**-0.5, f"mean of {n}")):
                right.plot(now * share, -len(lines), "o", color=style.BLUE, label="from drawing subsets")
                right.plot(spread * share, -len(lines), "D", color=style.ORANGE, label="in all, subsets and images")
                lines.append(f"{textwrap.fill(text, 22)}\n{what}")
        left.set(xscale="log", yscale="log", xlabel="random subsets per image", ylabel="standard error of one image")
        ticks = [*lengths, total] if total > 1.3 * lengths[-1] else [*lengths[:-1], total]
        left.set_xticks(ticks, [str(tick) for tick in ticks])
        _plain(left.yaxis)
        left.minorticks_off()
        left.set_title("One image's score\n↓ lower is more precise")
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=7.5, frameon=False)
        right.set_yticks(-np.arange(len(lines)), lines)
        right.set_ylim(-len(lines) + 0.4, 0.6)
        right.set(xscale="log", xlabel="standard error or deviation")
        _plain(right.xaxis)
        right.grid(axis="y", color=style.FAINT, linewidth=0.6)
        right.tick_params(axis="y", length=0)
        right.set_title("Sources of error\n← more precise")
        handles, texts = right.get_legend_handles_labels()
        said = f"drawing subsets makes {100 * min(1.0, parts[0]):.0f}\u00a0% of the variance of a mean Faithfulness Correlation"
        style.headline(fig, f"{first['dataset']}: {said}; {images} images")
        note = (
            f"Hollow: this run, {settings['trials']} × {settings['runs']} subsets of {settings['subset_size']} patches. "
            "Both scores of a difference see the same subsets."
        )
        fig.legend(
            handles[:2], texts[:2], loc="outside lower center", ncols=2, title=style.lines(note), title_fontsize=7.5
        )
        style.save(fig, folder, name)


def trial_error(scores, runs: int) -> float:
    """The standard deviation between trials of ``runs`` subsets, as root mean square over images."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # images without two defined trials
        variances = np.nanvar(scores(runs), axis=1, ddof=1)
    return float(np.sqrt(np.nanmean(variances))) if np.isfinite(variances).any() else np.nan


def trial_scores(relevance: np.ndarray, subsets: np.ndarray, drops: np.ndarray, runs: int) -> np.ndarray:
    """Faithfulness Correlation of each trial, (B, trials), from relevance (B, N), subsets (B, R, k) and drops (B, R).

    Runs left over after the last whole trial are not used.
    """
    members = relevance[np.arange(len(relevance))[:, None, None], subsets].astype(np.float64)
    sums = np.sort(members, axis=-1).sum(-1)
    trials = drops.shape[1] // runs
    cut = [values[:, : trials * runs].reshape(-1, runs) for values in (sums, drops)]
    return rank_correlation(*cut).reshape(-1, trials)


def _quantities(frame: pd.DataFrame, base: Path) -> dict:
    """Name -> function from the runs per trial to scores (B, trials): the baseline, and a gate minus the baseline."""
    first = frame.iloc[0]
    answered = read_table(base / "responses.parquet")
    rows = np.linspace(0, len(answered) - 1, min(len(answered), MOST_IMAGES)).astype(int)
    drops = matrix(answered, "drops")[rows]
    subsets = matrix(answered, "subsets")[rows].reshape(*drops.shape, -1)

    def scores(name):
        relevance = matrix(read_table(base / "attributions" / f"{name}.parquet"), "relevance")[rows]
        return lambda runs: trial_scores(relevance, subsets, drops, runs)

    reference = scores(first["baseline"])
    baseline = label(frame[frame["experiment"] == first["baseline"]].iloc[0])
    found = {baseline: reference}
    others = frame[(frame["experiment"] != first["baseline"]) & (frame["experiment"] != "random")]
    others = others.iloc[(others["construction"] != "combined").argsort(kind="stable")]
    if len(others):
        chosen = others.iloc[0]
        own = scores(chosen["experiment"])
        named = f"gated TransMM, {place(chosen, varies(frame))}," if chosen["construction"] else label(chosen)
        found[f"{named} minus {baseline}"] = lambda runs: own(runs) - reference(runs)
    return found


def _plain(axis) -> None:
    """Label a logarithmic axis with plain numbers, at 1, 2 and 5, or at more places if it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
