"""Histograms of the gates, a panel per layer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from fgg.catalogue import CONSTRUCTIONS
from fgg.comparison.quality import weak_saes
from fgg.report.experiment_names import PARTNER_TITLES, varies
from fgg.report.figures import style
from fgg.tables import matrix, read_table

BINS = 40
COLUMNS = 3
SHUFFLED = "shuffled decoder"
COMBINED = PARTNER_TITLES["combined"]
STRONG = 2.0  # a factor that the title counts
Panel = tuple[int, float, float]  # layer, clamp_max, alpha


def gates_figure(frame: pd.DataFrame, results: str | Path, folder: str | Path) -> None:
    """Draw how often gates amplify and damp, per layer and construction.

    A layer's gates do not depend on the other gated layers, so each layer is shown once, from the first experiment
    that gates it. ``frame`` has one row per experiment.
    """
    first = frame.iloc[0]
    name = f"{first['dataset']}_gates"
    panels = collect(frame, Path(results) / first["dataset"] / "gates")
    if not panels:
        text = "The grid of experiments holds no gate."
        style.remark(folder, name, f"{first['dataset']}: no gates to count", text)
        return
    strength, columns, weak = varies(frame), min(COLUMNS, len(panels)), weak_saes(frame["note"])
    rows = math.ceil(len(panels) / columns)
    with style.figure(1.75 * rows + 1.0, nrows=rows, ncols=columns, sharey=True, squeeze=False) as (fig, axes):
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        for place, (axis, (layer, clamp, alpha)) in enumerate(zip(axes.flat, sorted(panels), strict=False)):
            edge = max(clamp, 1 / clamp, 1.1)
            bins = np.geomspace(1 / edge, edge, BINS + 1)
            for kind, values in panels[(layer, clamp, alpha)].items():
                share, _ = np.histogram(values.clip(bins[0], bins[-1]), bins)
                axis.stairs(100 * share / max(len(values), 1), bins, label=kind, **_look(kind))
            axis.axvline(1, color=style.GREY, linewidth=0.8, linestyle=":", zorder=1)
            title = f"layer {layer}" + (f", clamp {clamp:g}, alpha {alpha:g}" if strength else "")
            axis.set_title(f"{title} (weak SAE)" if layer in weak else title)
            axis.set(xscale="log", xlim=(bins[0], bins[-1]))
            axis.set_xticks([1 / edge, 1, edge], [f"{1 / edge:.2g}", "1", f"{edge:g}"])
            axis.minorticks_off()
            if place % columns == 0:
                axis.set_ylabel("patches (%)")
            if place >= len(panels) - columns:
                axis.set_xlabel("← damps   gate   amplifies →")
        handles = {
            text: line for axis in axes.flat for line, text in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        fig.legend(handles.values(), handles, loc="outside lower center", ncols=3)
        every = np.concatenate([own.get(COMBINED, next(iter(own.values()))) for own in panels.values()])
        strong = 100 * float(((every > STRONG) | (every < 1 / STRONG)).mean()) if len(every) else 0.0
        said = f"{strong:.0f}\u00a0% of the patches' gates change the attention by more than a factor of {STRONG:g}"
        style.headline(fig, f"{first['dataset']}: {said}; {first['n_images']} images")
        style.save(fig, folder, name)


def collect(frame: pd.DataFrame, folder: Path) -> dict[Panel, dict[str, np.ndarray]]:
    """(layer, clamp_max, alpha) -> name of the construction -> all defined gates."""
    panels: dict[Panel, dict[str, np.ndarray]] = {}
    for _, row in frame[frame["construction"].notna() & frame["control"].isna()].iterrows():
        kind = SHUFFLED if row["shuffle_decoder"] else PARTNER_TITLES[row["construction"]]
        keys = {int(layer): (int(layer), row["clamp_max"], row["alpha"]) for layer in row["layers"].split("+")}
        if all(kind in panels.get(key, {}) for key in keys.values()):
            continue
        table = read_table(folder / f"{row['experiment']}.parquet", columns=["layer", "gate"])
        layers, gates = table["layer"].to_numpy(), matrix(table, "gate")
        for layer, key in keys.items():
            own = gates[layers == layer].ravel()
            panels.setdefault(key, {}).setdefault(kind, own[~np.isnan(own)])
    return panels


def _look(kind: str) -> dict:
    if kind == SHUFFLED:
        return {"color": style.ORANGE, "linestyle": style.DASHES[2], "linewidth": 1.3}
    number = next(i for i, name in enumerate(CONSTRUCTIONS) if PARTNER_TITLES[name] == kind)
    colour = style.CONSTRUCTION_COLOURS[list(CONSTRUCTIONS)[number]]
    return {"color": colour, "linestyle": style.DASHES[(0, 1, 3, 4)[number]], "linewidth": 1.3}
