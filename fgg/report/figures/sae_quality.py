"""How good the SAEs are: explained variance, active features per token, dead features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fgg.report.figures import style
from fgg.tables import read_json

PANELS = (
    ("explained_variance", "Explained variance\nhigher is better →", "share of the residual's variance"),
    ("l0", "L0\n← sparser", "active features per token"),
    ("dead_share", "Dead features\n← lower is better", "share that was never active (%)"),
)


def quality(saes: str | Path, layers: list[int]) -> dict[int, dict[str, Any]]:
    """Layer -> measurements of its SAE (metrics.json)."""
    return {layer: read_json(Path(saes) / f"layer_{layer}" / "metrics.json") for layer in layers}


def quality_figure(dataset: str, measured: dict[int, dict[str, Any]], folder: str | Path) -> None:
    """Draw a panel per measure and a bar per layer."""
    name = f"{dataset}_sae_quality"
    if not measured:
        text = "The grid of experiments holds no gate that reads an SAE."
        style.remark(folder, name, f"{dataset}: no SAE to measure", text)
        return
    height = 1.35 + 0.24 * len(measured)
    with style.figure(height, ncols=len(PANELS), sharey=True) as (fig, axes):
        places = -np.arange(len(measured))
        axes[0].set_yticks(places, [f"layer {layer}, {own['features']} features" for layer, own in measured.items()])
        axes[0].set_ylim(places[-1] - 0.6, 0.6)
        for axis, (key, title, unit) in zip(axes, PANELS, strict=True):
            values = np.array([_number(own.get(key)) for own in measured.values()])
            values = 100 * values if key == "dead_share" else values
            axis.barh(places, np.nan_to_num(values), height=0.55, color=style.BLUE)  # NaN: no bar, and the word unknown
            least = 1.0 if key == "dead_share" else 1e-9  # at least one percent, even if no feature is dead
            axis.set_xlim(min(0.0, float(np.nanmin([0.0, *values]))), max(least, 1.3 * np.nanmax([1e-9, *values])))
            for y, value in zip(places, values, strict=True):
                text = "unknown" if np.isnan(value) else f"{value:.3g}" + " %" * (key == "dead_share")
                axis.annotate(
                    text, (max(0.0, np.nan_to_num(value)), y), (3, 0), textcoords="offset points", va="center"
                )
            axis.set_title(title)
            axis.set_xlabel(unit)
            axis.tick_params(axis="y", length=0)
            axis.locator_params(axis="x", nbins=4)
        tokens = {own["tokens"] for own in measured.values()}
        of = f", on {min(tokens):,} held-out patches" if len(tokens) == 1 else ", on held-out patches"
        fig.suptitle(f"{dataset}: quality of the SAEs{of}".replace(",", " ", 0), weight="bold")
        style.save(fig, folder, name)


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
