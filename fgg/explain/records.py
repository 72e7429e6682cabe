"""An explanation as a record, for ``--json``, and as text made of that record: what is printed is in the record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from fgg.catalogue import FILLS
from fgg.explain.explanation import Explanation
from fgg.explain.gate_effect import Changed
from fgg.explain.removal import LEAST_DROP, Removal

RUNNERS_UP = 3
MARGIN = 14  # columns before the text of a line


def record(each: Explanation, classes: Sequence[str], titles: dict[str, str]) -> dict[str, Any]:
    """What is known about an image, as values of JSON; null stands for what is undefined.

    Shares and probabilities are from 0 to 1; rows, columns, patches, layers and features count from 0.
    """
    order = each.probabilities.argsort()[::-1]
    found: dict[str, Any] = {
        "image": each.picture.name,
        "label": each.picture.label,
        "prediction": classes[order[0]],
        "explained": classes[each.target],
        "probability": float(each.probabilities[each.target]),
        "probabilities": [
            {"class": classes[index], "probability": float(each.probabilities[index])} for index in order
        ],
        "grid": list(each.grid),
        "maps": {name: _map(each, name, own) for name, own in titles.items()},
    }
    if each.effect is not None:
        found["gate"] = {
            "factors": {str(layer): list(ends) for layer, ends in each.effect.factors.items()},
            "moved": each.effect.moved,
            "top": each.effect.top,
            "kept": each.effect.kept,
            "gained": [_changed(own, each.grid) for own in each.effect.gained],
            "lost": [_changed(own, each.grid) for own in each.effect.lost],
        }
    if each.features:
        found["features"] = [
            {
                "layer": own.layer, "feature": own.feature, "contribution": own.contribution, "share": own.share,
                "effect": own.effect, **_place(own.patch, each.grid),
            }
            for own in each.features
        ]  # fmt: skip
    found["removal"] = [_removal(own) for own in each.removals]
    return found


def _map(each: Explanation, name: str, title: str) -> dict[str, Any]:
    """The title, the total and the most relevant patch of a map."""
    own = each.shares(name)
    best = int(own.argmax())
    total = float(abs(each.maps[name].astype("float64")).sum())
    return {"title": title, "total": total, "strongest": {**_place(best, each.grid), "share": float(own[best])}}


def _place(patch: int, grid: tuple[int, int]) -> dict[str, int]:
    return {"patch": patch, "row": patch // grid[1], "column": patch % grid[1]}


def _changed(own: Changed, grid: tuple[int, int]) -> dict[str, Any]:
    features = {
        str(layer): [{"feature": feature, "share": share} for feature, share in named]
        for layer, named in own.features.items()
    }
    gates = {str(layer): gate for layer, gate in own.gates.items()}
    return {**_place(own.patch, grid), "before": own.before, "after": own.after, "gates": gates, "features": features}


def _removal(own: Removal) -> dict[str, Any]:
    def defined(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "fill": own.fill,
        "patches": own.patches,
        "of": own.of,
        "clean": own.clean,
        "all_removed": defined(own.filled),
        "measurable": own.measurable,
        "least_drop": LEAST_DROP,
        "maps": {
            name: {"probability": defined(value), "random_draws_above": own.below(name)}
            for name, value in own.maps.items()
        },
        "random": [defined(value) for value in own.random],
    }


def text(own: dict[str, Any]) -> str:
    """A record as lines of text."""
    return "\n".join(_lines(own))


def _lines(own: dict[str, Any]) -> Iterator[str]:
    chances = [f"{each['class']} ({each['probability']:.1%})" for each in own["probabilities"][: RUNNERS_UP + 1]]
    yield own["image"]
    yield _line("prediction", chances[0])
    if chances[1:]:
        yield _line("then", ", ".join(chances[1:]))
    if own["label"] is not None:
        yield _line("label", own["label"])
    if own["explained"] != own["prediction"]:
        yield _line("explained", f"{own['explained']} ({own['probability']:.1%})")
    for name, each in own["maps"].items():
        best = each["strongest"]
        said = f"strongest patch {_where(best)} with {best['share']:.1%} of the relevance"
        yield _line("map", f"{name}: {said if each['total'] else 'the relevance is 0 everywhere'}")
    if "gate" in own:
        yield from _gate(own["gate"])
    if "features" in own:
        yield _line("features", "layer  feature  contribution  share   effect    strongest patch")
        for each in own["features"]:
            yield _line("", f"{each['layer']:>5}  {each['feature']:>7}  {each['contribution']:>+12.3g}  "
                        f"{each['share']:>5.1%}  {each['effect']:<8}  {_where(each)}")  # fmt: skip
    for each in own["removal"]:
        yield from _reaction(each, own)


def _gate(gate: dict[str, Any]) -> Iterator[str]:
    factors = [f"{low:.2g} to {high:.2g} at layer {layer}" for layer, (low, high) in gate["factors"].items()]
    yield _line("gate", f"factors {', '.join(factors)}")
    yield _line("", f"{gate['moved']:.1%} of the relevance lies on other patches than before")
    yield _line(
        "", f"{gate['kept']} of the {gate['top']} most relevant patches were among the {gate['top']} most before"
    )
    for name in ("gained", "lost"):
        for number, each in enumerate(gate[name]):
            share = f"{each['before']:.2%} to {each['after']:.2%} of the relevance"
            yield _line("" if number else name, f"{_where(each)}: {share}")
            for layer, factor in each["gates"].items():
                made = ", ".join(f"{own['feature']} ({own['share']:+.0%})" for own in each["features"].get(layer, []))
                by = f"; largest shares of the score: {made}" if made else ""
                yield _line("", f"  layer {layer}: gate {factor:.2g}{by}")


def _reaction(each: dict[str, Any], own: dict[str, Any]) -> Iterator[str]:
    """The lines about what happened without patches, with one fill."""
    about = FILLS.get(each["fill"], "a constant of the normalised image")
    yield _line("removal", f"fill {each['fill']} ({about})")
    clean, rest = each["clean"], each["all_removed"]
    if not each["measurable"]:
        last = "is undefined" if rest is None else f"is {rest:.1%}"
        yield _line("", f"nothing can be measured: the probability of {own['explained']} is {clean:.1%}, and without any "
                    f"patch {last}; it must fall by at least {100 * each['least_drop']:g} points")  # fmt: skip
        return
    yield _line("", f"probability of {own['explained']}: {clean:.1%}; without any patch {rest:.1%}; "
                f"without {each['patches']} of {each['of']} patches:")  # fmt: skip
    draws = [value for value in each["random"] if value is not None]
    for name, after in each["maps"].items():
        if after["probability"] is None:
            yield _line("", f"  {name}: undefined")
            continue
        among = f", lower than {after['random_draws_above']} of {len(draws)} random draws" if draws else ""
        yield _line("", f"  most relevant by {name}: {after['probability']:.1%}{among}")
    if draws:
        yield _line(
            "", f"  random patches: {sum(draws) / len(draws):.1%} on average, {min(draws):.1%} to {max(draws):.1%}"
        )


def _line(name: str, said: str) -> str:
    return f"  {name:<{MARGIN - 2}}{said}"


def _where(place: dict[str, int]) -> str:
    """The position of a patch as text, counted from 0."""
    return f"{place['patch']} (row {place['row']}, column {place['column']})"
