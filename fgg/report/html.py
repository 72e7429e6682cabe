"""Self-contained HTML pages: a table that can be sorted, filtered and saved, or text from Markdown.

The templates are in ``templates/``; Jinja escapes all values inserted into them, and control characters become visible.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from fgg.comparison.verdicts import BETTER, WORSE
from fgg.visible import visible

KEY = "experiment"  # the column that stays visible when a wide table is scrolled
P_VALUES = ("p_value", "p_adjusted", "wilcoxon_p", "wilcoxon_p_adjusted")
MARKED = ("verdict", "significant", "improvement_pct", "improvement")
LONG = 60  # cells with more letters wrap


class Column(NamedTuple):
    """A column's head: its name, its CSS classes, and what it holds."""

    name: str
    kind: str
    about: str


class Cell(NamedTuple):
    """A cell: its CSS classes, its exact value, and its readable value."""

    kind: str
    exact: str
    text: str


class Row(NamedTuple):
    """A row: its CSS class and its cells."""

    look: str
    cells: list[Cell]


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("fgg.report"),
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        keep_trailing_newline=True,
    )


def _shown(value: Any) -> Any:
    """What a template inserts: of a text, control characters and overrides of the direction become visible."""
    if not isinstance(value, str):
        return value
    text = visible(value, keep="\n\t")
    return Markup(text) if isinstance(value, Markup) else text


def render(template: str, **values: Any) -> str:
    """Render a page from one of the templates."""
    return _templates().get_template(f"{template}.html.j2").render(**values)


def table_page(frame: pd.DataFrame, title: str, text: str, name: str, columns: Mapping[str, str]) -> str:
    """A page with a table that is sorted by a click on a column's head.

    Args:
        text: Markdown to show above the table.
        name: name of the CSV file that the page saves.
        columns: column -> what it holds, shown when the mouse hovers over its head.
    """
    numeric = {
        str(column): pd.api.types.is_numeric_dtype(values) and values.dtype != bool for column, values in frame.items()
    }
    heads = [
        Column(column, "n" if number else "key" if column == KEY else "", columns.get(column, ""))
        for column, number in numeric.items()
    ]
    rows = [
        Row(_look(row), [_cell(str(column), value, numeric[str(column)]) for column, value in row.items()])
        for row in frame.to_dict("records")
    ]
    return render("table", title=title, about=markdown(text), file=name, columns=heads, rows=rows)


def _look(row: Mapping[Any, Any]) -> str:
    if row.get("significant") is not True and row.get("significant") is not np.True_:
        return ""
    if str(row.get("verdict", BETTER)) not in (BETTER, WORSE):  # such as better in values
        return ""
    gain = next((row[name] for name in ("improvement", "improvement_pct", "effect_size") if name in row), np.nan)
    return BETTER if gain > 0 else WORSE


def _cell(name: str, value: Any, number: bool) -> Cell:
    exact, text = written(value)
    if name in P_VALUES and exact and float(exact) < 0.001:
        text = "< 0.001"
    kinds = {"n": number, "key": name == KEY, "v": name in MARKED, "long": len(text) > LONG}
    return Cell(" ".join(kind for kind, given in kinds.items() if given), exact, text)


def written(value: Any) -> tuple[str, str]:
    """A value of a table in exact and in readable form; both are empty if it is undefined."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return "", ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)), "yes" if value else "no"
    if isinstance(value, float | np.floating):
        value = float(value)
        text = f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.4g}"
        return repr(value), text.replace("-", "−")
    return str(value), str(value)


def text_page(title: str, text: str) -> str:
    """A page made of Markdown (see `markdown`)."""
    return render("page", title=title, body=markdown(text))


def markdown(text: str) -> Markup:
    """Convert Markdown to HTML. Links keep only their text, since the page must stand alone; pictures are left out."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    for rule in ("link_open", "link_close", "image"):
        parser.add_render_rule(rule, lambda *_: "")
    return Markup(parser.render(text))
