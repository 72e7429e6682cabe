"""Small HTML tables, for objects that a notebook shows. Every text is escaped. Imports neither torch nor matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

CAPTION = Markup('<caption style="caption-side: top; text-align: left; padding: 0 0 0.4em 0">{}</caption>')
CELL = Markup('<td style="text-align: left">{}</td>')
HEAD = Markup('<th style="text-align: left">{}</th>')


def html_table(columns: Sequence[Any], rows: Iterable[Sequence[Any]], caption: Any = "") -> Markup:
    """A table as HTML.

    Args:
        columns: heads of the columns; empty for a table without a head.
        rows: the cells; a text that is not ``Markup`` is escaped.
        caption: stands above the table.
    """
    head = Markup("<thead><tr>{}</tr></thead>").format(_cells(HEAD, columns)) if columns else ""
    body = Markup("").join(Markup("<tr>{}</tr>").format(_cells(CELL, row)) for row in rows)
    above = CAPTION.format(caption) if caption else ""
    return Markup("<table>{}{}<tbody>{}</tbody></table>").format(above, head, body)


def _cells(form: Markup, values: Sequence[Any]) -> Markup:
    return Markup("").join(form.format(value) for value in values)
