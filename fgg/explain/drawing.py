"""The picture of explained images, a row per image; the same panels are also drawn one by one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fgg import plot
from fgg.errors import FggError
from fgg.explain.explained_model import Subject
from fgg.explain.explanation import Explanation
from fgg.explain.gate_effect import Feature
from fgg.explain.options import GATED, PLAIN
from fgg.explain.removal import Removal
from fgg.tables import atomic
from fgg.visible import literal

RAISED, LOWERED = "#D55E00", "#56B4E9"  # the patches that gained and lost most, as in the pictures of cases
BOOST_COLOUR, SUPPRESS_COLOUR = "#B2182B", "#2166AC"  # as for more and less relevance in the map of the difference
SIDE, ROW, BESIDE = 1.7, 2.25, 0.6  # inches: a panel, a row of panels, the space beside a panel
BARS = 0.95  # width of a panel with bars, in panels
MOST_ROWS = 40
MOST_LETTERS = 28  # in a line beside a row
LETTERS = 14  # of a warning, per inch
PER_LINE = 17  # letters in a line of a map's title
# A $ in the name of a class or a file is drawn as it is.
RC = {"font.size": 8.5, "axes.titlesize": 9.5, "svg.hashsalt": "fgg", "text.parse_math": False}
SHARE = "share of relevance (%)"


@dataclass(frozen=True)
class Look:
    """How maps are drawn.

    Attributes:
        titles: name of a map -> its title.
        smooth: interpolate between patches.
        own_scale: each map has its own scale; else the maps of an image share one.
        grey: show images in grey under the maps, so that all colours are those of the map.
    """

    titles: dict[str, str]
    smooth: bool = False
    own_scale: bool = False
    grey: bool = False

    def limits(self, each: Explanation) -> dict[str, tuple[float, float]]:
        """Name of a map -> the smallest and largest value of its colours, in per cent of its relevance."""
        found = {name: (min(0.0, float(own.min())), float(own.max())) for name, own in percent(each).items()}
        if self.own_scale:
            return found
        ends = min(low for low, _ in found.values()), max(high for _, high in found.values())
        return dict.fromkeys(found, ends)


def percent(each: Explanation) -> dict[str, np.ndarray]:
    """Name of a map -> its shares in per cent, float64 (N,)."""
    return {name: 100 * each.shares(name) for name in each.maps}


def draw(
    explanations: Sequence[Explanation],
    subject: Subject,
    output: Path,
    title: str,
    look: Look,
    warnings: Sequence[str] = (),
) -> None:
    """Write one picture with a row per image.

    Args:
        title: title of the whole picture.
        warnings: about the SAEs, written below the rows.
    """
    first = explanations[0]
    bars = any(each.features for each in explanations) + any(each.removals for each in explanations)
    panels = 1 + len(first.maps) + (first.effect is not None)
    ratios = [1.0] * panels + [BARS] * bars
    width = SIDE * sum(ratios) + BESIDE * (panels + 2 * bars)
    scale = "each map on a scale of its own" if look.own_scale else "one scale for the maps of an image"
    marks = "; outlined: the patches that gained and lost most" if first.effect is not None else ""
    with _figure((width, ROW * len(explanations) + 0.45)) as figure:
        rows = figure.subplots(len(explanations), len(ratios), squeeze=False, width_ratios=ratios)
        for axes, each in zip(rows, explanations, strict=True):
            _row(list(axes), each, subject, look, [any(one.features for one in explanations), bool(first.removals)])
        figure.suptitle(textwrap.fill(f"{title} ({scale}{marks})", int(width * LETTERS)))
        if warnings:
            text = "\n".join(textwrap.fill(f"Warning: {warning}", int(width * LETTERS)) for warning in warnings)
            figure.supxlabel(text, fontsize=8, color=BOOST_COLOUR)
        _save(figure, output)


def check_format(output: Path) -> None:
    """Raise FggError if matplotlib cannot write a picture of this name."""
    from matplotlib.backend_bases import FigureCanvasBase

    if output.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise FggError(f"--output {output}: pictures are written as .png, .svg, .pdf or .jpg; end the name so")


def panels(each: Explanation, subject: Subject, folder: Path, look: Look) -> list[dict[str, Any]]:
    """Write every panel of an image as a file of its own, without titles; a record per file.

    Returns:
        Records with ``file`` and ``shows``, and for maps ``map``, ``unit``, ``low`` and ``high``, the ends of the colours.
    """
    picture, shared = each.picture.image, _shared(each, subject, look)
    limits, values = look.limits(each), percent(each)

    def bare(name: str, draw_on: Any) -> str:
        with _figure((4.0, 4.0 * shape[0] / shape[1]), layout=None) as figure:
            draw_on(figure.add_axes((0, 0, 1, 1)))
            _save(figure, folder / name)
        return name

    shape = plot.picture(picture, subject.preprocess, grey=False).shape
    found: list[dict[str, Any]] = [
        {"file": bare("image.png", lambda ax: plot.show(picture, ax, preprocess=subject.preprocess)), "shows": "image"}
    ]
    for number, name in enumerate(each.maps):
        low, high = limits[name]

        def one_map(ax: Any, name: str = name, low: float = low, high: float = high) -> None:
            plot.overlay(picture, values[name], ax, vmin=low, vmax=high, colorbar=False, grey=look.grey, **shared)
            _mark(ax, each)

        file = bare(f"map_{number}.png", one_map)
        found.append({"file": file, "shows": look.titles[name], "map": name, "unit": "per cent of the map's relevance",
                      "low": low, "high": high})  # fmt: skip
    if each.effect is not None:
        most = _most(values)

        def change(ax: Any) -> None:
            plot.difference(picture, values[PLAIN], values[GATED], ax, vmax=most, colorbar=False, **shared)
            _mark(ax, each)

        found.append({"file": bare("difference.png", change), "shows": _minus(look), "unit": "percentage points",
                      "low": -most, "high": most})  # fmt: skip
    for name, drawn, data in (("features.png", _features, each.features), ("removal.png", _removal, each.removals)):
        if data:
            with _figure((3.4, 2.4)) as figure:
                drawn(figure.subplots(), data, look)
                _save(figure, folder / name)
            found.append({"file": name, "shows": "strongest features" if name == "features.png" else "removal"})
    return found


@contextmanager
def _figure(size: tuple[float, float], layout: Any = "constrained") -> Iterator[Any]:
    """A figure without a window, in the style of the pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=size, layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def _save(figure: Any, path: Path) -> None:
    literal(figure)
    form = path.suffix[1:].lower()
    dates = {"Date": None} if form == "svg" else {"CreationDate": None} if form == "pdf" else None
    with atomic(path) as temporary:
        figure.savefig(temporary, format=form, dpi=200, metadata=dates)


def _shared(each: Explanation, subject: Subject, look: Look) -> dict[str, Any]:
    return {"grid": each.grid, "preprocess": subject.preprocess, "smooth": look.smooth}


def _row(axes: list[Any], each: Explanation, subject: Subject, look: Look, bars: Sequence[bool]) -> None:
    """Draw an image on the axes of its row."""
    image, shared = each.picture.image, _shared(each, subject, look)
    plot.show(image, axes[0], title="image", preprocess=subject.preprocess)
    limits, values = look.limits(each), percent(each)
    for number, (name, ax) in enumerate(zip(each.maps, axes[1:], strict=False), start=1):
        low, high = limits[name]
        last = number == len(each.maps)
        plot.overlay(image, values[name], ax, title=textwrap.fill(look.titles[name], PER_LINE), vmin=low, vmax=high,
                     label=SHARE, colorbar=last or look.own_scale, grey=look.grey, **shared)  # fmt: skip
    rest = axes[1 + len(each.maps) :]
    if each.effect is not None:
        plot.difference(image, values[PLAIN], values[GATED], rest[0], title=textwrap.fill(_minus(look), PER_LINE),
                        vmax=_most(values), label="change (points)", **shared)  # fmt: skip
        for ax in axes[: len(axes) - sum(bars)]:
            _mark(ax, each)
        rest = rest[1:]
    best = int(each.probabilities.argmax())
    said = [each.picture.name, f"{subject.classes[best]} ({each.probabilities[best]:.0%})"]
    if each.target != best:
        said += ["explained:", f"{subject.classes[each.target]} ({each.probabilities[each.target]:.0%})"]
    said = [line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS - 1]}…" for line in said]
    axes[0].set_ylabel("\n".join(said))
    if bars[0]:
        _features(rest[0], each.features, look)
    if bars[1]:
        _removal(rest[-1], each.removals, look)


def _minus(look: Look) -> str:
    return f"gated − {look.titles[PLAIN]}"


def _most(values: dict[str, np.ndarray]) -> float:
    """The largest change between the two maps, in points; 1 if there is none."""
    return float(np.abs(values[GATED] - values[PLAIN]).max()) or 1.0


def _mark(ax: Any, each: Explanation) -> None:
    """Outline the patches that gained and lost most."""
    if each.effect is None:
        return
    size = ax.images[0].get_array().shape[:2]
    for changed, colour in ((each.effect.gained, RAISED), (each.effect.lost, LOWERED)):
        if changed:
            plot.mark(ax, changed[0].patch, each.grid, size, color=colour)


def _features(ax: Any, features: Sequence[Feature], look: Look) -> None:
    values = [each.contribution for each in features]
    colours = [BOOST_COLOUR if value > 0 else SUPPRESS_COLOUR for value in values]
    ax.barh(range(len(values)), values, color=colours, height=0.62)
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set_yticks(range(len(values)), [f"layer {each.layer}, {each.feature}" for each in features])
    _bare(ax, "strongest features" if features else "no active feature", "summed contribution")


def _removal(ax: Any, removals: Sequence[Removal], look: Look) -> None:
    """The probability after removal, for the first fill that can measure something."""
    own = next((each for each in removals if each.measurable), removals[0])
    names = [*own.maps, "random"]
    rows = range(len(own.maps))
    if own.measurable:
        ax.axvline(own.clean, color="0.3", linewidth=0.8, linestyle="--")
        ax.plot(own.random, [len(own.maps)] * len(own.random), "|", color="0.45", markersize=9)
        ax.plot(list(own.maps.values()), list(rows), "o", color="#0072B2", markersize=5)
        ax.set_xlim(-0.03, 1.03)
        labels = [textwrap.fill(look.titles.get(name, name), PER_LINE) for name in names]
        ax.set_yticks(range(len(names)), labels)
        ax.set_ylim(-0.6, len(names) - 0.4)
    else:
        ax.text(0.5, 0.5, "nothing can be\nmeasured: the patches\nhardly matter", ha="center", va="center",
                transform=ax.transAxes)  # fmt: skip
        ax.set(xticks=[], yticks=[])
    _bare(ax, f"without {own.patches} patches\n(fill {own.fill})", "probability\n(dashed: whole image)")


def _bare(ax: Any, title: str, label: str) -> None:
    """Finish axes with named rows, the first on top."""
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    if len(ax.get_xticks()):
        ax.locator_params(axis="x", nbins=4)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_title(title)
    ax.set_xlabel(label)
