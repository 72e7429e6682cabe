"""The references of attribution methods and metrics, from what they state and from their docstrings. Imports no torch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from griffe import Docstring
from words import allowed, code, paragraphs, prose, table

from fgg.attribution.registry import NEEDS, methods
from fgg.catalogue import FILLS
from fgg.faithfulness.registry import metrics
from fgg.registry import Declaration

ROOT = Path(__file__).resolve().parents[2]
ROLES = {
    "ceiling": "a ceiling: it is built from what SaCo and Faithfulness Correlation measure, so it is no competitor",
    "floor": "the floor that every method must beat",
    "reference": "a map of known content, which judges the metrics",
}
LETTERS = """Letters: B images, N patches, T tokens, H heads; A the attention of a block after softmax, (B, H, T, T); s the logit of
the explained class and p its probability; r the residual stream; x the image; u₀ the row that the head reads (that of the
class token, or the mean over the patches); ⊙ multiplies element by element, and [·]₊ = max(·, 0)."""
METHODS = f"""# Methods

Every attribution method of fgg, made from what the methods state. `fgg methods` prints the same list. A method gives one
number per patch: how much the patch counts for the explained class. [Methods, their cost, and the gate](../methods.md)
compares them, and says what their numbers were checked against.

From Python: `fgg.attribute(model, images, method="rise", samples=500)`. In a configuration:
`experiments: {{baselines: [transmm, {{method: rise, options: {{samples: 500}}}}]}}`.

{LETTERS}
"""
METRICS = f"""# Metrics

Every metric of fgg, made from what the metrics state. `fgg metrics` prints the same list.
[How faithfulness is measured](../faithfulness.md) says how they become verdicts, and [planted cues](../planted.md) how often
each of them is right where the truth is known.

The settings are keys of the metric's block in a configuration, such as `metrics: {{saco: {{bins: 10}}}}`. `null` in place
of the block switches a metric off. What a metric assumes is also its limit: where it does not hold, the score
means something else.

{LETTERS} R is the map; x∖S is the image with the patches S replaced by the fill.

## Fills

What may replace a patch, beside a number in the units of the model's input:

{table(("fill", "a patch becomes"), [(f"`{name}`", prose(text)) for name, text in FILLS.items()])}
"""


def formulas() -> dict[str, dict[str, str]]:
    """The formulas of methods and metrics: kind -> name -> text."""
    return yaml.safe_load(Path(__file__).with_name("formulas.yaml").read_text(encoding="utf-8"))


def method_page() -> str:
    """The page of the methods, as Markdown."""
    parts = [METHODS]
    for name, entry in methods().items():
        text, options = _docstring(entry.declaration)
        facts = [
            ("source", prose(entry.citation)),
            ("assumes", prose(entry.assumes)),
            ("reads", "; ".join(prose(NEEDS[need]) for need in entry.needs)),
            ("cost", prose(entry.cost)),
            ("gate", "can be gated" if entry.gateable else "cannot be gated"),
            ("role", ROLES.get(entry.role, "")),
        ]
        rows = [(f"`{key}`", *_option(entry.declaration, key), options.get(key, "")) for key in entry.options]
        parts += [f"## `{name}`", f"**{entry.title}.** {text}", _formula("methods", name), _facts(facts)]
        parts.append(table(("option", "type", "default", "meaning"), rows))
    return "\n\n".join(part for part in parts if part)


def metric_page() -> str:
    """The page of the metrics, as Markdown."""
    parts = [METRICS]
    for name, entry in metrics().items():
        low, high = (f"{bound:g}" if bound is not None else "unbounded" for bound in (entry.lowest, entry.highest))
        reads = {"values": "the values of a map", "order": "only the order of the patches"}[entry.reads]
        facts = [
            ("asks", prose(entry.definition)),
            ("source", prose(entry.citation)),
            ("better", f"{entry.direction}; from {low} to {high}"),
            ("reads", f"{reads}; the fill matters" if entry.perturbs else reads),
            ("assumes", prose(entry.assumes)),
            ("cost", f"forward passes: {prose(entry.passes)}"),
            ("default", "computed unless it is switched off" if entry.default else _asked(entry)),
        ]
        settings = [
            (f"`{key}`", allowed(rule), code(rule["default"]), prose(rule["description"]))
            for key, rule in entry.settings.items()
        ]
        columns = [(f"`{key}`", prose(text)) for key, text in entry.columns.items()]
        parts += [f"## `{name}`", f"**{entry.title}.**", _formula("metrics", name), _facts(facts)]
        parts += [table(("setting", "allowed", "default", "meaning"), settings)]
        parts += [table(("further column", "meaning"), columns)]
    return "\n\n".join(part for part in parts if part)


def _asked(entry: Any) -> str:
    return "computed for datasets with masks" if entry.localises else "computed if the configuration names it"


def _formula(kind: str, name: str) -> str:
    return f"```text\n{formulas()[kind][name].rstrip()}\n```" if name in formulas()[kind] else ""


def _facts(facts: list[tuple[str, str]]) -> str:
    return "\n".join(f"- *{name}:* {text}" for name, text in facts if text)


def _option(declaration: Declaration, name: str) -> tuple[str, str]:
    """The type of an option as the signature states it, and its default."""
    arguments = _function(declaration).args
    (own,) = [each for each in (*arguments.args, *arguments.kwonlyargs) if each.arg == name]
    kind = f"`{ast.unparse(own.annotation)}`" if own.annotation else ""
    default = declaration.defaults.get(name)
    return kind, f"`{default!r}`"


def _docstring(declaration: Declaration) -> tuple[str, Mapping[str, str]]:
    """The text of a function's docstring, and the meaning of its arguments."""
    text, options = "", {}
    written = ast.get_docstring(_function(declaration)) or ""
    for part in Docstring(written).parse("google", warnings=False):
        if part.kind.value == "text":
            text += f"\n\n{part.value}"
        elif part.kind.value == "parameters":
            options = {each.name: prose(each.description) for each in part.value}
    return paragraphs(text), options


def _function(declaration: Declaration) -> ast.FunctionDef:
    path = ROOT.joinpath(*declaration.module.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == declaration.function]
    return found
