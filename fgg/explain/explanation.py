"""Explain single images: the prediction, the SAE features that changed the map, and a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from fgg import plot
from fgg.attribution.attribute import Attribution, attribute
from fgg.attribution.gate import Gate
from fgg.attribution.registry import find_method
from fgg.cases.features import BOOST, SUPPRESS, contributions
from fgg.catalogue import CONSTRUCTIONS
from fgg.errors import FggError
from fgg.explain.explained_model import Picture, Subject
from fgg.models.capture import capture
from fgg.plot.image_arrays import relevance_grid
from fgg.tables import atomic
from fgg.visible import literal

RUNNERS_UP = 3
BOOST_COLOUR, SUPPRESS_COLOUR = "#B2182B", "#2166AC"  # as for more and less relevance in the map of the difference
SIDE, ROW, BESIDE = 1.6, 2.15, 0.6  # inches: a panel, a row of panels, the space beside a panel
BARS = 0.9  # width of the bars, in panels
MOST_ROWS = 40
MOST_LETTERS = 28  # in a line beside a row
LETTERS = 14  # of a warning, per inch
# A $ in the name of a class or a file is drawn as it is.
RC = {"font.size": 8.5, "axes.titlesize": 9.5, "svg.hashsalt": "fgg", "text.parse_math": False}


@dataclass(frozen=True)
class Feature:
    """The contribution of an SAE feature to the gate of an image.

    Attributes:
        layer: the gated block.
        feature: its index in the SAE.
        contribution: its terms in the gate's score, summed over the patches.
        patch: the patch where its term is strongest in that direction.
    """

    layer: int
    feature: int
    contribution: float
    patch: int

    @property
    def effect(self) -> str:
        """BOOST if the feature raises the gate's score, else SUPPRESS."""
        return BOOST if self.contribution > 0 else SUPPRESS


@dataclass
class Explanation:
    """An explained image. N patches, K classes.

    Attributes:
        probabilities: (K,).
        target: the class explained.
        found: the requested attribution, a batch of one image.
        vanilla: TransMM's relevance (N,), if ``found`` is gated.
        features: the strongest features over all gated layers, strongest first.
        grid: rows and columns of patches.
    """

    picture: Picture
    probabilities: np.ndarray
    target: int
    found: Attribution
    grid: tuple[int, int]
    vanilla: np.ndarray | None = None
    features: list[Feature] = field(default_factory=list)

    @property
    def relevance(self) -> np.ndarray:
        """The requested map, (N,)."""
        return self.found.relevance[0].cpu().numpy()


def explain(
    subject: Subject,
    picture: Picture,
    method: str = "transmm",
    gate: Gate | None = None,
    saes: Mapping[int, Any] | None = None,
    target: int | None = None,
    features: int = 6,
    seed: int = 0,
) -> Explanation:
    """Explain one image.

    Args:
        method: one of ``fgg.methods()``, or ``module:function``.
        gate: a gate for TransMM.
        saes: layer -> SAE, as for `fgg.attribute`.
        target: class to explain; None takes the predicted one.
        features: number of strongest features to name.
        seed: seed of the random method.
    """
    found = attribute(subject.model, picture.tensor, method, gate, saes, target, image_ids=[picture.name], seed=seed)
    if len(subject.classes) != found.logits.shape[1]:
        raise FggError(f"{len(subject.classes)} class names for a model with {found.logits.shape[1]} classes")
    probabilities = found.logits[0].double().softmax(-1).cpu().numpy()
    grid = relevance_grid(found.relevance, size=subject.preprocess.output_size).shape
    result = Explanation(picture, probabilities, int(found.target[0]), found, (grid[0], grid[1]))
    if gate is not None:
        plain = attribute(subject.model, picture.tensor, method, target=result.target)
        result.vanilla = plain.relevance[0].cpu().numpy()
        if CONSTRUCTIONS[gate.construction].needs_sae:
            result.features = strongest(subject, picture, gate, saes or {}, result.target, features)
    return result


def strongest(
    subject: Subject, picture: Picture, gate: Gate, saes: Mapping[int, Any], target: int, count: int
) -> list[Feature]:
    """The features with the largest summed terms in the gate's score over all gated layers, largest first."""
    first, chosen = subject.model.num_prefix_tokens, torch.tensor([target], device=picture.tensor.device)
    seen = capture(subject.model, picture.tensor, chosen, layers=gate.layers)
    found = []
    for layer in gate.layers:
        with torch.no_grad():
            codes = saes[layer].encode(seen.residuals[layer][0, first:])
            gradients = seen.gradients[layer][0, first:] @ saes[layer].W_dec.T
            terms = contributions(gate.construction, codes, gradients).double()
        total = terms.sum(0)
        best = total.abs().sort(descending=True, stable=True).indices[:count]
        patches = (terms[:, best] * total[best].sign()).argmax(0)
        found += [
            Feature(layer, int(feature), float(total[feature]), int(patch))
            for feature, patch in zip(best, patches, strict=True)
            if total[feature] != 0
        ]
    return sorted(found, key=lambda feature: -abs(feature.contribution))[:count]


def words(explanation: Explanation, classes: Sequence[str]) -> str:
    """The explanation as lines of text."""
    order = explanation.probabilities.argsort()[::-1]
    said = [f"{classes[index]} ({explanation.probabilities[index]:.1%})" for index in order[: RUNNERS_UP + 1]]
    lines = [explanation.picture.name, f"  prediction  {said[0]}"]
    if said[1:]:
        lines.append(f"  then        {', '.join(said[1:])}")
    if explanation.picture.label is not None:
        lines.append(f"  label       {explanation.picture.label}")
    if explanation.target != order[0]:
        chance = explanation.probabilities[explanation.target]
        lines.append(f"  explained   {classes[explanation.target]} ({chance:.1%})")
    for layer, gates in explanation.found.gates.items():
        raised, lowered = int((gates > 1).sum()), int((gates < 1).sum())
        lines.append(
            f"  gate        layer {layer}: {raised} patches amplified, {lowered} damped; "
            f"factors {float(gates.min()):.2g} to {float(gates.max()):.2g}"
        )
    if explanation.features:
        lines.append("  features    layer  feature  contribution  effect    strongest patch")
        for each in explanation.features:
            lines.append(
                f"              {each.layer:>5}  {each.feature:>7}  {each.contribution:>+12.3g}  {each.effect:<8}  "
                f"{place(each.patch, explanation.grid)}"
            )
    else:
        best = int(explanation.relevance.argmax())
        lines.append(f"  strongest   {place(best, explanation.grid)}")
    return "\n".join(lines)


def place(patch: int, grid: tuple[int, int]) -> str:
    """The position of a patch as text, counted from 0."""
    return f"{patch} (row {patch // grid[1]}, column {patch % grid[1]})"


def draw(
    explanations: Sequence[Explanation],
    subject: Subject,
    output: Path,
    title: str,
    names: tuple[str, str],
    smooth: bool,
    warnings: Sequence[str] = (),
) -> None:
    """Write one picture with a row per image.

    Args:
        title: title of the whole picture.
        names: names of the map without a gate and of the gated map.
        smooth: interpolate between patches.
        warnings: about the SAEs, written below the rows.

    Raises:
        FggError: there are too many images for one picture, or matplotlib does not know the file format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_output(output, len(explanations))
    gated, bars = explanations[0].vanilla is not None, any(each.features for each in explanations)
    panels = 4 if gated else 2
    ratios = [1.0] * panels + [BARS] * bars
    width = SIDE * sum(ratios) + BESIDE * (panels + 2 * bars)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, ROW * len(explanations) + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(len(explanations), len(ratios), squeeze=False, width_ratios=ratios)
        for axes, each in zip(rows, explanations, strict=True):
            _row(axes, each, subject, names, bars, smooth)
        figure.suptitle(f"{title} (outlined: strongest patch of the first feature)" if bars else title)
        if warnings:
            text = "\n".join(textwrap.fill(f"Warning: {warning}", int(width * LETTERS)) for warning in warnings)
            figure.supxlabel(text, fontsize=8, color=BOOST_COLOUR)
        literal(figure)
        with atomic(output) as temporary:
            figure.savefig(temporary, format=output.suffix[1:].lower(), dpi=200)


def check_output(output: Path, images: int) -> None:
    """Raise FggError if such a picture cannot be written."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if output.suffix[1:].lower() not in known:
        raise FggError(f"--output {output}: pictures are written as .png, .svg, .pdf or .jpg; end the name so")
    if images > MOST_ROWS:
        raise FggError(f"{images} images are too many for one picture; give at most {MOST_ROWS} at once")


def _row(axes: Any, each: Explanation, subject: Subject, names: tuple[str, str], bars: bool, smooth: bool) -> None:
    image, shared = each.picture.image, {"grid": each.grid, "preprocess": subject.preprocess, "smooth": smooth}
    if each.vanilla is None:
        plot.show(image, axes[0], title="image", preprocess=subject.preprocess)
        plot.overlay(image, each.relevance, axes[1], title=names[0], **shared)
    else:
        patch = each.features[0].patch if each.features else None
        plot.compare(image, each.vanilla, each.relevance, axes[:4], names=names, patch=patch, **shared)
    best = int(each.probabilities.argmax())
    said = [each.picture.name, f"{subject.classes[best]} ({each.probabilities[best]:.0%})"]
    if each.target != best:
        said += ["explained:", f"{subject.classes[each.target]} ({each.probabilities[each.target]:.0%})"]
    said = [line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS - 1]}…" for line in said]
    axes[0].set_ylabel("\n".join(said))
    if bars:
        _bars(axes[4], each.features)


def _bars(ax: Any, features: Sequence[Feature]) -> None:
    values = [each.contribution for each in features]
    colours = [BOOST_COLOUR if value > 0 else SUPPRESS_COLOUR for value in values]
    ax.barh(range(len(values)), values, color=colours, height=0.62)
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set_yticks(range(len(values)), [f"layer {each.layer}, {each.feature}" for each in features])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=4)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_title("strongest features" if features else "no active feature")
    ax.set_xlabel("summed contribution")


def headline(method: str, gate: Gate | None) -> tuple[str, tuple[str, str]]:
    """The picture's title, and the names of the map without a gate and of the gated map."""
    plain = find_method(method).title
    if gate is None:
        return plain, (plain, "")
    layers = ", ".join(map(str, gate.layers))
    made = CONSTRUCTIONS[gate.construction].title.replace(" x ", " × ")
    return f"{plain} gated by {made} at layer{'s' if len(gate.layers) > 1 else ''} {layers}", (plain, "gated")
