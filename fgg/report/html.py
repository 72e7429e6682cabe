"""Pages of HTML that need nothing else: a table that sorts, filters and saves itself, or text from Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0; padding: 1rem 1.25rem 3rem; font: 14px/1.5 system-ui, "Segoe UI", Roboto, Arial, sans-serif;
  color: #1b1f24; background: #fff }
h1 { font-size: 1.35rem; margin: 0 0 .35rem } h2 { font-size: 1.1rem; margin: 1.6rem 0 .3rem }
p, ul { max-width: 52rem; margin: .3rem 0 .7rem } ul { padding-left: 1.2rem }
code, pre { font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace }
pre { background: #f6f8fa; padding: .8rem 1rem; overflow: auto; border-radius: 6px }
.tools { display: flex; gap: .8rem; align-items: center; margin: .6rem 0; flex-wrap: wrap }
input, button { font: inherit; padding: .25rem .6rem; border: 1px solid #c4cbd3; border-radius: 6px; background: #fff }
button { cursor: pointer } button:hover { background: #f0f3f6 }
.count, .empty { color: #59636e }
.scroll { overflow: auto; max-height: calc(100vh - 11rem); min-height: 14rem; border: 1px solid #d5dae0; border-radius: 6px }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums }
th, td { padding: .28rem .7rem; border-bottom: 1px solid #e6e9ed; text-align: left; white-space: nowrap }
td.long { white-space: normal; min-width: 16rem }
td.n, th.n { text-align: right }
thead th { position: sticky; top: 0; background: #eef1f4; z-index: 2; font-weight: 600 }
table.sortable thead th { cursor: pointer; user-select: none }
table.sortable thead th:hover { background: #e1e6eb }
th[aria-sort=ascending]::after { content: " \\25B2"; font-size: .7em } th[aria-sort=descending]::after { content: " \\25BC"; font-size: .7em }
td.key, thead th.key { position: sticky; left: 0; z-index: 1; background: #fff }
thead th.key { z-index: 3; background: #eef1f4 }
tbody tr:hover td { background: #f6f8fa }
tr.better td.v { color: #8a3d00; font-weight: 600 } tr.worse td.v { color: #3b1d78; font-weight: 600 }
"""
SCRIPT = """
const table = document.querySelector("table.sortable"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
const value = (row, i) => row.cells[i].dataset.v;
heads.forEach((head, i) => {
  const sort = () => {
    const down = head.getAttribute("aria-sort") === "ascending", number = head.classList.contains("n");
    const rows = [...body.rows];
    rows.sort((a, b) => {
      const x = value(a, i), y = value(b, i);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = number ? x - y : x.localeCompare(y, "en", { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows);
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
});
const field = document.querySelector("#filter"), count = document.querySelector(".count"), all = body.rows.length;
field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const row of body.rows) {
    const text = [...row.cells].map(cell => cell.textContent.toLowerCase());
    const fits = words.every(word => text.some(cell => cell.includes(word)));
    row.hidden = !fits; shown += fits;
  }
  count.textContent = `${shown} of ${all} rows`;
});
document.querySelector("#save").addEventListener("click", () => {
  const quote = text => /[",\\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const lines = [heads.map(head => head.dataset.name), ...[...body.rows].filter(row => !row.hidden)
    .map(row => heads.map((_, i) => value(row, i)))].map(cells => cells.map(quote).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\\n") + "\\n"], { type: "text/csv" }));
  link.download = document.querySelector("#save").dataset.name;
  link.click();
});
"""


KEY = "experiment"  # the column that stays when a wide table is pushed to the left


def document(title: str, body: str, script: str = "") -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n" + (f"<script>{script}</script>\n" if script else "") + "</body>\n</html>\n"
    )


def table_page(frame: pd.DataFrame, title: str, text: str, name: str, columns: Mapping[str, str]) -> str:
    """A page with a table that sorts by a click on a column's head.

    Args:
        text: Markdown above the table.
        name: of the CSV file that the page saves.
        columns: column -> what it holds, shown when the mouse rests on its head.
    """
    numeric = {
        column: pd.api.types.is_numeric_dtype(values) and values.dtype != bool for column, values in frame.items()
    }
    heads = "".join(
        f'<th tabindex="0"{" class=n" if numeric[column] else " class=key" if column == KEY else ""} data-name="{_quoted(column)}" '
        f'title="{_quoted(columns.get(column, ""))}">{html.escape(column.replace("_", " "))}</th>'
        for column in frame.columns
    )
    rows = "\n".join(_row(row, numeric) for row in frame.to_dict("records"))
    body = (
        f"<h1>{html.escape(title)}</h1>\n{markdown(text)}\n"
        f'<div class="tools"><input id="filter" type="search" placeholder="show rows with …" aria-label="filter">'
        f'<span class="count">{len(frame)} rows</span>'
        f'<button id="save" data-name="{_quoted(name)}">save as CSV</button>'
        f'<span class="count hint">a click on a column sorts; rest the mouse on it to read what it holds</span></div>\n'
        f'<div class="scroll"><table class="sortable">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
        "</table></div>"
    )
    return document(title, body, SCRIPT)


def _row(row: Mapping[str, Any], numeric: Mapping[str, bool]) -> str:
    look = ""
    if row.get("significant") is True or row.get("significant") is np.True_:
        gain = next((row[name] for name in ("improvement", "improvement_pct", "effect_size") if name in row), np.nan)
        look = ' class="better"' if gain > 0 else ' class="worse"'
    return f"<tr{look}>" + "".join(_cell(name, value, numeric[name]) for name, value in row.items()) + "</tr>"


def _cell(name: str, value: Any, number: bool) -> str:
    exact, text = written(value)
    if name in ("p_value", "p_adjusted", "wilcoxon_p", "wilcoxon_p_adjusted") and exact and float(exact) < 0.001:
        text = "< 0.001"
    marked = name in ("verdict", "significant", "improvement_pct", "improvement")
    kinds = " ".join(["n"] * number + ["key"] * (name == KEY) + ["v"] * marked + ["long"] * (len(text) > 60))
    return (
        f'<td{f" class={chr(34)}{kinds}{chr(34)}" if kinds else ""} data-v="{_quoted(exact)}">{html.escape(text)}</td>'
    )


def written(value: Any) -> tuple[str, str]:
    """A table's value exactly, and as people read it; nothing for what is undefined."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return "", ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)), "yes" if value else "no"
    if isinstance(value, float | np.floating):
        value = float(value)
        return repr(value), (f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.4g}").replace(
            "-", "−"
        )
    return str(value), str(value)


def text_page(title: str, text: str) -> str:
    """A page made of Markdown (see `markdown`)."""
    return document(title, markdown(text))


def markdown(text: str) -> str:
    """The part of Markdown that the package writes, as HTML: headings, lists, tables, code blocks and paragraphs."""
    return "\n".join(_blocks(text))


def _blocks(text: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if not lines:
            continue
        if lines[0].startswith("```"):
            yield f"<pre>{html.escape(chr(10).join(lines[1:-1]))}</pre>"
        elif heading := re.match(r"(#+) (.*)", lines[0]):
            level = len(heading[1])
            yield f"<h{level}>{_inline(heading[2])}</h{level}>"
            yield from _blocks("\n".join(lines[1:])) if lines[1:] else ()
        elif lines[0].startswith("- "):
            items = re.split(r"\n(?=- )", block)
            yield "<ul>" + "".join(f"<li>{_inline(item[2:])}</li>" for item in items) + "</ul>"
        elif lines[0].startswith("|"):
            head, _, *rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
            yield (
                "<table><thead><tr>" + "".join(f"<th>{_inline(cell)}</th>" for cell in head) + "</tr></thead><tbody>"
                + "".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows)
                + "</tbody></table>"
            )  # fmt: skip
        else:
            yield f"<p>{_inline(' '.join(lines))}</p>"


def _inline(text: str) -> str:
    """Bold, italics and code; pictures are left out, and of links the text stays."""
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        f"<code>{html.escape(part[1:-1])}</code>"
        if part.startswith("`") and len(part) > 1
        else re.sub(r"\*(.+?)\*", r"<em>\1</em>", re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(part)))
        for part in parts
    )


def _quoted(text: str) -> str:
    return html.escape(text, quote=True)
