"""How values, rules and sentences of the code are written in Markdown, for pages below reference/."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fgg.catalogue import FILLS


def prose(text: str) -> str:
    """A sentence of the code as Markdown: what stands in backticks stays, all else means itself."""
    parts = re.sub(r"``", "`", " ".join(text.split())).split("`")
    plain = [re.sub(r"([*|\[\]])", r"\\\1", html.escape(part, quote=False)) for part in parts]
    return "`".join(own if at % 2 == 0 else parts[at] for at, own in enumerate(plain))


def paragraphs(text: str) -> str:
    """Text of a docstring as Markdown, with its lists and blank lines."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(_block(block) for block in blocks)


def _block(block: str) -> str:
    if not block.lstrip().startswith("- "):
        return prose(block)
    items = re.split(r"(?m)^\s*- ", block)[1:]
    return "\n".join(f"- {prose(item)}" for item in items)


def code(value: Any) -> str:
    """A value as it is written in YAML, in backticks."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if text else '`""`'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty text without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *lines]) + "\n"


def allowed(rule: Mapping[str, Any]) -> str:
    """What a rule of a JSON schema allows, in words."""
    if "anyOf" in rule:
        return " or ".join(dict.fromkeys(allowed(each) for each in rule["anyOf"]))
    if "const" in rule:
        return code(rule["const"])
    if rule.get("enum") == [*FILLS]:
        return "a [fill](metrics.md#fills)"
    if "enum" in rule:
        return ", ".join(code(each) for each in rule["enum"])
    kinds = rule.get("type", "object" if "properties" in rule else "any value")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(_kind(kind, rule) for kind in kinds)


def _kind(kind: str, rule: Mapping[str, Any]) -> str:
    if kind == "null":
        return "`null`"
    if kind == "boolean":
        return "`true`, `false`"
    if kind == "string":
        return f"name ({rule['registry']})" if "registry" in rule else "text"
    if kind == "array":
        own = allowed(rule["items"]) if "items" in rule else "any values"
        return f"list of {_many(own)}"
    if kind in ("integer", "number"):
        return " ".join(["whole number" if kind == "integer" else "number", *_bounds(rule)])
    return "block" if kind == "object" else kind


def _many(one: str) -> str:
    """The plural of what an item of a list may be."""
    return (
        re.sub(r"(?<![\w`])(number|text|block|list)(?![\w`])", r"\1s", one, count=1)
        if " or " not in one
        else f"({one})"
    )


def _bounds(rule: Mapping[str, Any]) -> list[str]:
    said = {"minimum": "≥", "exclusiveMinimum": "&gt;", "maximum": "≤", "exclusiveMaximum": "&lt;"}
    found = [f"{sign} {rule[key]}" for key, sign in said.items() if key in rule]
    return [", ".join(found)] if found else []
