"""Figure of the logit's change when SAE features are deleted, over their number k."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fgg.report.figures import style

NAME = "feature_deletion"
# Group -> label, colour, line style and marker; the two panels of a layer.
SIZES = {
    "score": ("largest |activation × gradient|", style.VERMILION, "-", "o"),
    "random": ("random, matched activation", style.BLACK, style.DASHES[1], "s"),
    "most_active": ("most active", style.BLUE, style.DASHES[3], "^"),
    "least_active": ("least active", style.GREEN, style.DASHES[2], "v"),
}
CHANGES = {
    "positive": ("most positive score", style.VERMILION, "-", "o"),
    "random_positive": ("random, matched to the positive", style.VERMILION, style.DASHES[1], "s"),
    "negative": ("most negative score", style.BLUE, "-", "^"),
    "random_negative": ("random, matched to the negative", style.BLUE, style.DASHES[1], "v"),
}
NOTE = (
    "Δ logit: change of the explained class's logit after features are deleted from the residual stream; bands: 95 % intervals "
    "(BCa bootstrap)"
)


def _finding(own: pd.DataFrame) -> str:
    """What the title says: how much more the logit changes without the features of large scores than without random ones."""
    sizes = own.pivot_table(index=["layer", "k"], columns="group", values="absolute_change")
    if not {"score", "random"} <= set(sizes) or not (sizes["random"] > 0).all():
        return "what deleting SAE features does to the logit"
    ratio = sizes["score"] / sizes["random"]
    ends = sorted({f"{ratio.min():.2g}", f"{ratio.max():.2g}"}, key=float)
    return f"deleting the features of the largest scores changes the logit {' to '.join(ends)} times as much as deleting random ones"


def deletion_figure(table: pd.DataFrame, dataset: str, seed: str, folder: str | Path) -> None:
    """Draw two panels per layer: the mean absolute change, and the signed change for features of one sign.

    Args:
        table: results/feature_deletion.csv, its seeds as texts.
        seed: the seed that is drawn.
    """
    own = table[(table["dataset"] == dataset) & (table["seed"] == seed) & table["logit_change"].notna()]
    name = f"{dataset}_{NAME}"
    if own.empty:
        style.remark(
            folder, name, f"{dataset}: no features deleted", "The grid of experiments holds no gate that reads an SAE."
        )
        return
    own = own.drop_duplicates(["layer", "group", "k"])  # a row per comparison repeats the means
    layers = sorted(own["layer"].unique())
    with style.figure(1.6 + 1.6 * len(layers), nrows=len(layers), ncols=2, squeeze=False, sharex=True) as (fig, axes):
        for (left, right), layer in zip(axes, layers, strict=True):
            rows = own[own["layer"] == layer]
            _panel(left, rows, SIZES, "absolute_change")
            _panel(right, rows, CHANGES, "logit_change")
            left.set(ylim=(0, None), ylabel="mean |Δ logit|")
            left.set_title(f"layer {layer}: size of the change\n↑ matters more")
            right.set(ylabel="mean Δ logit")
            right.set_title(f"layer {layer}: features of one sign\n↓ expected of positive, ↑ of negative")
            right.axhline(0, color=style.GREY, linewidth=0.6, zorder=1)
        ticks = sorted(own["k"].unique())
        for axis in axes[-1]:
            axis.set_xscale("log")
            axis.set_xticks(ticks, [str(k) for k in ticks])
            axis.minorticks_off()
            axis.set_xlabel("features deleted, k")
        images = int(own["n"].max())
        style.headline(fig, f"{dataset}: {_finding(own)}; {images} images")
        lines = [axis.get_legend_handles_labels() for axis in axes[0]]
        handles, texts = ([entry for part in lines for entry in part[at]] for at in (0, 1))
        fig.legend(handles, texts, loc="outside lower center", ncols=2, title=style.lines(NOTE), title_fontsize=7.5)
        style.save(fig, folder, name)


def _panel(axis: style.Axes, rows: pd.DataFrame, groups: dict, quantity: str) -> None:
    """A curve with a band for each group that the rows hold."""
    for group, (text, colour, dash, marker) in groups.items():
        own = rows[rows["group"] == group].sort_values("k")
        if len(own):
            axis.plot(
                own["k"], own[quantity], color=colour, linestyle=dash, marker=marker, markersize=3, label=text, zorder=3
            )
            axis.fill_between(
                own["k"], own[f"{quantity}_low"], own[f"{quantity}_high"], color=colour, alpha=0.15, linewidth=0
            )
