"""The pictures of the case studies: one per case and layer, and a page per feature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patheffects

from fgg import plot
from fgg.cases.case_tables import BOOST, SUPPRESS
from fgg.cases.layout import LEFT, WARNING, Patch, end_of, figure, head, save, say, start_of, tile
from fgg.report.figures import style

LARGE = 6  # patches across the image; with more, a patch is too small to hold a number
UNSEEN = 0.01  # an invisible change of relevance, for maps from 0 to 1; the smallest range of the colours
COLOURS = {BOOST: style.VERMILION, SUPPRESS: style.SKY, "": "white"}
INK = {BOOST: style.VERMILION, SUPPRESS: style.BLUE, "": style.GREY}
TITLES = {"improved": "most improved", "degraded": "most degraded", "random": "drawn at random"}


@dataclass(frozen=True)
class Names:
    """Names that are shown.

    Attributes:
        experiment, baseline: readable names.
        split: the prototypes' split.
        metrics: metric -> its short title.
        warnings: layer -> the warning about its SAE; empty for a sound one.
    """

    experiment: str
    baseline: str
    split: str
    metrics: Mapping[str, str]
    warnings: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """The change at a patch of a case: a row of cases.csv, and the prototypes of its feature."""

    row: dict[str, Any]
    prototypes: Sequence[Patch] = ()


@dataclass(frozen=True)
class Case:
    """An image at a layer. ``vanilla`` and ``gated`` are the maps as displayed, (N,), from 0 to 1."""

    picture: np.ndarray
    vanilla: np.ndarray
    gated: np.ndarray
    grid: tuple[int, int]
    changes: Sequence[Change] = field(default_factory=tuple)


def case_picture(case: Case, names: Names, of: int, path: Path) -> None:
    """Write the picture of a case: image, both maps, their difference, and per changed patch its feature's prototypes.

    Args:
        of: number of images in its category.
    """
    first = case.changes[0].row
    warning = names.warnings.get(first["layer"], "")
    side, top, line = 1.36, 0.98 + WARNING * bool(warning), 1.16
    below = top + side + 0.5
    with figure(below + len(case.changes) * line) as (fig, place):
        head(
            fig,
            f"{TITLES[first['category']].capitalize()}, {first['rank']} of {of}: {end_of(first['image_id'], 45)}",
            f"{names.experiment}; features of layer {first['layer']}",
            _about(first),
            f"gain over {names.baseline}: {_gains(first, names.metrics)} (positive is better)",
            warning=warning,
        )
        axes = [place(LEFT + x, top, side, side) for x in (0.0, 1.43, 2.86, 4.86)]
        plot.show(case.picture, axes[0])
        scale = {"vmin": 0.0, "vmax": max(1e-9, float(max(case.vanilla.max(), case.gated.max())))}
        plot.overlay(case.picture, case.vanilla, axes[1], grid=case.grid, colorbar=False, **scale)
        plot.overlay(case.picture, case.gated, axes[2], grid=case.grid, colorbar=False, **scale)
        most = max(UNSEEN, float(abs(case.gated - case.vanilla).max()))
        plot.difference(case.picture, case.vanilla, case.gated, axes[3], grid=case.grid, vmax=most, colorbar=False)
        for axis, title in zip(axes, ("image", "TransMM", "gated", "gated − TransMM"), strict=True):
            axis.set_title(title, pad=3)
        _bar(fig, axes[2], place(LEFT + 4.27, top + 0.1, 0.07, side - 0.2))
        _bar(fig, axes[3], place(LEFT + 6.27, top + 0.1, 0.07, side - 0.2), signed=True)
        for axis in axes:
            for number, change in enumerate(case.changes, start=1):
                _mark(axis, case, change.row, str(number))
        say(fig, LEFT, below - 0.16, "most changed patches", weight="bold")
        say(fig, LEFT + 1.78, below - 0.16, "the patch", weight="bold")
        say(fig, LEFT + 2.74, below - 0.16, f"top patches of the feature in the {names.split} split", weight="bold")
        for number, change in enumerate(case.changes, start=1):
            _change(fig, place, below + (number - 1) * line, number, case, change)
        save(fig, path)


def feature_page(
    feature: dict[str, Any],
    names: Names,
    counts: dict[str, dict[str, int]],
    prototypes: Sequence[Patch],
    cases: Sequence[Patch],
    path: Path,
) -> None:
    """Write a feature's page: what it does over all images, its prototypes, and its cases.

    Args:
        feature: a row of features.csv.
        counts: direction -> explained class -> number of patches.
    """
    across = 7
    rows = -(-len(cases) // across)
    side = (style.WIDTH - 2 * LEFT - 0.08 * (across - 1)) / across
    warning = names.warnings.get(feature["layer"], "")
    top, tall = 0.85 + WARNING * bool(warning), 1.15
    below = top + tall + 0.62
    with figure(below + rows * (side + 0.48)) as (fig, place):
        head(
            fig,
            f"Feature {feature['feature']} of layer {feature['layer']}",
            names.experiment,
            f"Dominant in {feature['boosts'] + feature['suppresses']} patches of {feature['images']} explained images: "
            f"boosts {feature['boosts']}, suppresses {feature['suppresses']}; mean contribution "
            f"{_three(feature['mean_contribution'])}",
            warning=warning,
        )
        say(fig, LEFT, top - 0.14, "patches by explained class", weight="bold")
        _classes(place(LEFT + 0.95, top, 1.15, tall - 0.1), counts)
        left = LEFT + 2.45
        wide = min(tall, (style.WIDTH - LEFT - left) / max(1, len(prototypes)) - 0.06)
        say(fig, left, top - 0.14, f"top patches of the {names.split} split, with activation", weight="bold")
        for number, own in enumerate(prototypes):
            tile(place(left + number * (wide + 0.06), top, wide, wide), own, style.YELLOW)
        if not prototypes:
            say(fig, left, top + 0.2, f"no patch of the {names.split} split activates it", color=style.GREY)
        say(fig, LEFT, below - 0.14, "its patches in the case studies", weight="bold")
        for number, own in enumerate(cases):
            row, column = divmod(number, across)
            axis = place(LEFT + column * (side + 0.08), below + row * (side + 0.48), side, side)
            tile(axis, own, COLOURS[own.lines[0].split()[0]])
        save(fig, path)


def _about(row: Mapping[str, Any]) -> str:
    """The true class, the predicted class, and the explained class if it is another one."""
    true, predicted, explained = (start_of(row[f"{name}_class"], 35) for name in ("true", "predicted", "explained"))
    text = f"true class {true}, predicted {predicted} (p = {row['confidence']:.2f})"
    return text if row["explained_class"] == row["predicted_class"] else f"{text}, explained {explained}"


def _gains(row: dict[str, Any], metrics: Mapping[str, str]) -> str:
    parts = [f"{title} {_two(row[f'gain_{name}'])}" for name, title in metrics.items()]
    return ", ".join(parts) + f"; composite {_two(row['composite'])}"


def share_of_score(share: float) -> str:
    """A feature's share of a patch's score (see `fgg.cases.shares`) in words."""
    percent = f"{100 * share:.0f} %" if share >= 0.005 or share == 0 else "less than 1 %"
    return f"{percent} of the patch's score"


def _two(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:+.2f}".replace("-", "−")


def _three(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _bar(fig: Any, axis: Any, place: Any, signed: bool = False) -> None:
    bar = fig.colorbar(axis.images[-1], cax=place)
    low, high = axis.images[-1].get_clim()
    bar.set_ticks([low, (low + high) / 2, high], labels=[_tick(v, signed) for v in (low, (low + high) / 2, high)])
    bar.outline.set_visible(False)
    place.set_facecolor("0.55")
    place.tick_params(length=2, pad=1.5, labelsize=7)


def _tick(value: float, signed: bool) -> str:
    return _two(value) if signed and abs(value) > 1e-9 else f"{value:.2f}"


def _mark(axis: Any, case: Case, row: dict[str, Any], text: str) -> None:
    """Outline a patch and write its number: inside a large patch, else above it, or below it in the first row."""
    (height, width), (rows, columns) = case.picture.shape[:2], case.grid
    plot.mark(axis, row["patch"], case.grid, (height, width), color=COLOURS[row["direction"]], linewidth=1.2)
    inside, first = max(rows, columns) <= LARGE, row["row"] == 0
    axis.annotate(
        text,
        ((row["column"] + 0.5) * width / columns, (row["row"] + (0.5 if inside else first)) * height / rows),
        xytext=(0, 0 if inside else -2 if first else 2),
        textcoords="offset points",
        ha="center",
        va="center" if inside else "top" if first else "bottom",
        color="white",
        zorder=5,
        path_effects=[patheffects.withStroke(linewidth=2, foreground="black")],
    )


def _change(fig: Any, place: Any, top: float, number: int, case: Case, change: Change) -> None:
    """Draw a line of the picture: numbers, the patch itself and the feature's prototypes."""
    row, direction = change.row, change.row["direction"]
    title = f"{number}  {direction}, feature {row['feature']}" if direction else f"{number}  no feature this way"
    lines = [f"relevance {row['vanilla_map']:.2f} → {row['gated_map']:.2f}", f"gate {row['gate']:.2f}"]
    if (row["gate"] - 1) * (row["gated_map"] - row["vanilla_map"]) < 0:
        lines[1] += " (against the change)"
    if direction:
        lines += [f"activation {row['activation']:.2f}", f"feature gradient {_three(row['feature_gradient'])}"]
        lines += [f"contribution {_three(row['contribution'])}", share_of_score(row["share"])]
    say(fig, LEFT, top + 0.07, title, weight="bold", color=INK[direction])
    for at, text in enumerate(lines, start=1):
        say(fig, LEFT, top + 0.09 + 0.145 * at, text, fontsize=7.5)
    side = 0.8
    own = Patch(case.picture, row["patch"], case.grid, (f"row {row['row']}, column {row['column']}",))
    tile(place(LEFT + 1.78, top, side, side), own, COLOURS[direction])
    left = LEFT + 2.74
    wide = min(side, (style.WIDTH - LEFT - left) / max(1, len(change.prototypes)) - 0.04)
    for at, prototype in enumerate(change.prototypes):
        tile(place(left + at * (wide + 0.04), top, wide, wide), prototype, style.YELLOW)
    if direction and not change.prototypes:
        say(fig, left, top + 0.2, "no patch of that split activates it", color=style.GREY)


def _classes(axis: Any, counts: dict[str, dict[str, int]]) -> None:
    """Draw how many patches a feature boosts (right) and suppresses (left), for at most five explained classes."""
    totals: Counter[str] = Counter()
    for own in counts.values():
        totals.update(own)
    names = sorted(totals, key=lambda name: (-totals[name], name))[:5]
    for sign, direction in ((1, BOOST), (-1, SUPPRESS)):
        values = [sign * counts.get(direction, {}).get(name, 0) for name in names]
        axis.barh(range(len(names)), values, color=INK[direction], height=0.7)
    axis.axvline(0, color=style.BLACK, linewidth=0.6)
    axis.set_yticks(range(len(names)), [start_of(name, 15) for name in names], fontsize=7)
    axis.invert_yaxis()
    most = max([1, *(abs(patch.get_width()) for patch in axis.patches)])
    axis.set_xlim(-most * 1.05, most * 1.05)
    axis.set_xticks([-most, 0, most], [str(int(most)), "0", str(int(most))], fontsize=7)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set_xlabel("suppressed | boosted", fontsize=7, labelpad=2)
