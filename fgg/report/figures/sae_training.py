"""How SAEs were made: the learning curves of those that were trained, and the candidates of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fgg.report.figures import style
from fgg.saes.sweep import COLUMNS

CURVES = {
    "explained_variance": "Explained variance →",
    "l0": "L0 (active features)",
    "dead_share": "← Dead features",
    "loss_recovered": "Loss recovered →",
}
MARKERS = "osD^vPX*<>"
OUTSIDE = 0.3  # opacity of an SAE outside the limits of the choice


def training_figure(dataset: str, measured: Mapping[int, Mapping[str, Any]], folder: str | Path) -> None:
    """Draw the learning curves, a panel per measure and a line per layer.

    Args:
        measured: layer -> metrics.json.
    """
    name = f"{dataset}_sae_training"
    curves = {layer: own["learning_curve"] for layer, own in measured.items() if own.get("learning_curve")}
    if not curves:
        text = "The SAEs were read from files, or are a basis: there is no training to show."
        style.remark(folder, name, f"{dataset}: no SAE was trained", text)
        return
    with style.figure(2.3, ncols=len(CURVES)) as (fig, axes):
        for axis, (key, title) in zip(axes, CURVES.items(), strict=True):
            for number, (layer, points) in enumerate(curves.items()):
                frame = pd.DataFrame(points).dropna(subset=[key])
                axis.plot(
                    frame["tokens"] / 1000,
                    frame[key],
                    color=style.CURVE_COLOURS[number % len(style.CURVE_COLOURS)],
                    linestyle=style.DASHES[number % len(style.DASHES)],
                    marker=MARKERS[number % len(MARKERS)],
                    markersize=3,
                    label=f"layer {layer}",
                )
            axis.set_title(title)
            axis.set_xlabel("thousand tokens")
            axis.set_ylim(*_limits(axis, key))
        last = {layer: points[-1] for layer, points in curves.items()}
        said = ", ".join(f"{own['explained_variance']:.3f} (layer {layer})" for layer, own in last.items())
        fig.suptitle(f"{dataset}: training of the SAEs; explained variance in the end {said}", weight="bold")
        axes[0].legend(loc="best")
        style.note(
            fig,
            "On validation images, at most 32 during the training and 500 for the last point. batchtopk and matryoshka choose "
            "among all features of a batch until then, and at the last point by the threshold that is used later. Values below "
            "−0.1 are cut off.",
        )
        style.save(fig, folder, name)


def _limits(axis: Any, key: str) -> tuple[float, float]:
    low, high = axis.get_ylim()
    return (max(low, -0.1), max(high, 0.1)) if key in ("explained_variance", "loss_recovered") else (0, high)


def sweep_figure(dataset: str, tables: Sequence[pd.DataFrame], folder: str | Path) -> None:
    """Draw explained variance and downstream KL divergence against L0 for the SAEs of a sweep, a row per layer.

    Args:
        tables: `fgg.saes.choose_sae.candidates` of every layer.
    """
    name = f"{dataset}_sae_sweep"
    if not tables:
        text = "One SAE per layer was trained: no value of sae.train is a list."
        style.remark(folder, name, f"{dataset}: no sweep of SAEs", text)
        return
    whole = pd.concat(tables)
    kinds = list(dict.fromkeys(whole["architecture"]))
    others = [key for key in COLUMNS.values() if key not in ("architecture", "k") and whole[key].nunique() > 1]
    with style.figure(2.1 * len(tables) + 0.9, nrows=len(tables), ncols=2, squeeze=False, sharex=True) as (fig, axes):
        for (left, right), frame in zip(axes, tables, strict=True):
            for number, kind in enumerate(kinds):
                colour, marker = style.CURVE_COLOURS[number % len(style.CURVE_COLOURS)], MARKERS[number]
                own = frame[frame["architecture"] == kind]
                for axis, key in ((left, "explained_variance"), (right, "kl")):
                    faces = [colour if chosen else "white" for chosen in own["chosen"]]
                    alpha = [1.0 if within else OUTSIDE for within in own["within_limits"]]
                    axis.scatter(own["l0"], own[key], 26, faces, marker, alpha=alpha, edgecolors=colour, zorder=3)
            front = frame[frame["pareto"]].sort_values("l0")
            left.plot(front["l0"], front["explained_variance"], color=style.GREY, linewidth=0.8, zorder=1)
            chosen = frame[frame["chosen"]].iloc[0]
            left.annotate(
                chosen["name"], (chosen["l0"], chosen["explained_variance"]), xytext=(6, -9), textcoords="offset points"
            )
            left.set_ylabel(f"layer {chosen['layer']}\nexplained variance →")
            right.set_ylabel("← KL divergence (nats)")
            for axis in (left, right):
                axis.set_xscale("log")
                axis.set_xticks(_ticks(frame["l0"]), [f"{tick:g}" for tick in _ticks(frame["l0"])])
                axis.minorticks_off()
            if (frame["kl"] > 0).all():
                right.set_yscale("log")
                for each in (right.yaxis.set_major_formatter, right.yaxis.set_minor_formatter):
                    each(lambda value, _: f"{value:.2g}")
        for axis in axes[-1]:
            axis.set_xlabel("L0: active features per patch (log)")
        for number, kind in enumerate(kinds):
            axes[0][1].plot([], [], MARKERS[number], color=style.CURVE_COLOURS[number % len(style.CURVE_COLOURS)],
                            markerfacecolor="white", label=kind)  # fmt: skip
        axes[0][1].legend(loc="upper right", title="architecture")
        on = sum(bool(frame.loc[frame["chosen"], "pareto"].any()) for frame in tables)
        text = f"{dataset}: {len(tables[0])} SAEs per layer; the one that is used, filled, is on the Pareto front in {on} of "
        style.headline(fig, text + f"{len(tables)} layer{'s' * (len(tables) != 1)}")
        text = "On validation images. The line joins the SAEs that no other beats in both (Pareto front)."
        if not whole["within_limits"].all():
            text += " Faint: outside the limits of the choice."
        if others:
            text += (
                f" SAEs that differ in {' and '.join(key.replace('_', ' ') for key in others)} have the same marker."
            )
        style.note(fig, text)
        style.save(fig, folder, name)


def _ticks(values: pd.Series) -> list[float]:
    """Ticks of a logarithmic axis that spans little: powers of 2 inside the range, at least two."""
    found = [2.0**power for power in range(0, 16) if values.min() / 1.2 <= 2.0**power <= values.max() * 1.2]
    return found if len(found) > 1 else [float(f"{values.min():.2g}"), float(f"{values.max():.2g}")]
