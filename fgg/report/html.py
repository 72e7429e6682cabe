"""Self-contained HTML pages: a table that can be sorted, filtered and saved, or text from Markdown.

The templates are in ``templates/``; Jinja escapes all values inserted into them, and control characters become visible.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from fgg.comparison.verdicts import BETTER, WORSE
from fgg.visible import visible

P_VALUES = ("p_value", "p_adjusted", "wilcoxon_p", "wilcoxon_p_adjusted")
MARKED = ("verdict", "significant", "improvement_pct", "improvement")
LONG = 60  # cells with more letters wrap


FILTERED = (
    "dataset",
    "seed",
    "metric",
    "fill",
    "stratum",
    "against",
    "verdict",
    "layer",
    "category",
    "kind",
    "direction",
)
ALWAYS = ("experiment", "verdict")  # columns that are shown even if all rows are alike
MOST_CHOICES = 12  # of a column, for a filter of its own
CONTEXT = (
    "dataset",
    "seed",
    "metric",
    "fill",
    "stratum",
    "protocol",
    "precision",
    "baseline",
    "n_images",
    "n_measurable",
)


class Column(NamedTuple):
    """A column's head: its name, its CSS classes, and what it holds."""

    name: str
    kind: str
    about: str


class Cell(NamedTuple):
    """A cell: its CSS classes, its exact value, its readable value, and the file beside the page that it leads to."""

    kind: str
    exact: str
    text: str
    link: str = ""


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


def table_page(
    frame: pd.DataFrame,
    title: str,
    text: str,
    name: str,
    columns: Mapping[str, str],
    first: Sequence[str] = (),
    links: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """A page with a table that can be sorted, filtered and saved.

    What is the same in all rows stands above the table.

    Args:
        text: Markdown to show above the table.
        name: name of the CSV file that the page saves, with all columns.
        columns: column -> what it holds, shown when the mouse hovers over its head.
        first: the columns to show, in this order; the others appear on request. All are shown if this is empty.
        links: column -> per row the file beside the page that its cell leads to, empty for none.
    """
    same = {
        str(c): written(frame[c].iloc[0])[1]
        for c in frame
        if c not in ALWAYS and len(frame) > 1 and frame[c].nunique(dropna=False) == 1
    }
    lead = [column for column in first if column in frame and column not in same]
    shown = lead or [str(column) for column in frame if column not in same]
    frame = frame[shown + [column for column in frame if column not in shown]]
    numbers = {str(c) for c, values in frame.items() if pd.api.types.is_numeric_dtype(values) and values.dtype != bool}
    # The classes of a column's head and cells.
    kinds = {str(c): _kinds(n=str(c) in numbers, key=place == 0, more=c not in shown) for place, c in enumerate(frame)}
    heads = [Column(column, kind, columns.get(column, "")) for column, kind in kinds.items()]
    targets = {column: (links or {}).get(column, [""] * len(frame)) for column in kinds}
    rows = [
        Row(_look(row), [_cell(column, row[column], kind, targets[column][place]) for column, kind in kinds.items()])
        for place, row in enumerate(frame.to_dict("records"))
    ]
    filters = {c: sorted({written(value)[1] for value in frame[c]} - {""}) for c in FILTERED if c in shown}
    return render(
        "table", title=title, about=markdown(text), file=name, columns=heads, rows=rows, more=len(shown) < len(kinds),
        same=[(c, text) for c, text in same.items() if text and (c in CONTEXT or c in first)],
        filters=[(c, values) for c, values in filters.items() if 1 < len(values) <= MOST_CHOICES],
    )  # fmt: skip


def _kinds(**given: bool) -> str:
    return " ".join(kind for kind, is_given in given.items() if is_given)


def _look(row: Mapping[Any, Any]) -> str:
    if row.get("significant") is not True and row.get("significant") is not np.True_:
        return ""
    if str(row.get("verdict", BETTER)) not in (BETTER, WORSE):  # such as better in values
        return ""
    gain = next((row[name] for name in ("improvement", "improvement_pct", "effect_size") if name in row), np.nan)
    return BETTER if gain > 0 else WORSE


def _cell(name: str, value: Any, kind: str, link: str) -> Cell:
    exact, text = written(value)
    if name in P_VALUES and exact and float(exact) < 0.001:
        text = "< 0.001"
    own = _kinds(v=name in MARKED, mark=name == "verdict", long=len(text) > LONG)
    return Cell(" ".join(filter(None, (kind, own))), exact, text, link)


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


def data_uri(data: bytes, kind: str) -> str:
    """The bytes of a picture as an address that holds them; ``kind`` is the format, such as ``webp``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def text_page(title: str, text: str) -> str:
    """A page made of Markdown (see `markdown`)."""
    return render("page", title=title, body=markdown(text))


def markdown(text: str) -> Markup:
    """Convert Markdown to HTML. Links keep only their text, since the page must stand alone; pictures are left out."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    for rule in ("link_open", "link_close", "image"):
        parser.add_render_rule(rule, lambda *_: "")
    return Markup(parser.render(text))
