"""The reference of all configuration keys, from the schema and what the registries add to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from words import allowed, code, prose, table

from fgg.pipeline.configuration import schema_rules

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
NAME = "NAME"  # stands for a name that the user chooses
OF_OTHERS = '"module:function"'  # stands for a metric of another package
HEAD = """# Configuration keys

Every key of a configuration file, made from `workflow/schemas/config.schema.yaml` and from what the metrics state. A
file given with `--config` (`fgg run`) or `--configfile` (Snakemake) is merged over `config.yaml`, so it holds only what
differs. A misspelt key, and a value that is not allowed, end the run before it starts, with a message that names both.

A dot leads into a block: `datasets.NAME.model.weights` is the key `weights` in the block `model` of the dataset `NAME`.
`NAME` is a name that you choose. A block whose keys have defaults may be left out.
"""


def configuration_page() -> str:
    """The page, as Markdown."""
    rules = schema_rules(SCHEMA)
    parts = [HEAD]
    for path, rule in blocks(rules):
        parts += [f"## {f'`{path}`' if path else 'Top level'}", prose(rule.get("description", ""))]
        rows = [_row(path, key, own, rule, rules) for key, own in keys(rule, rules)]
        parts.append(table(("key", "allowed", "default", "meaning"), rows))
    return "\n\n".join(part for part in parts if part)


def blocks(rules: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The blocks of the configuration in the schema's order, each with its path; the top level has an empty path."""
    yield from _blocks("", rules, rules)


def _blocks(path: str, rule: Mapping[str, Any], rules: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, rule
    for key, own in keys(rule, rules):
        place = f"{path}.{key}".lstrip(".")
        for inner, suffix in _inner(own, rules):
            yield from _blocks(place + suffix, {"description": own.get("description", ""), **inner}, rules)


def keys(rule: Mapping[str, Any], rules: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The keys of a block with their rules."""
    for key, own in rule.get("properties", {}).items():
        yield key, resolved(own, rules)
    for own in rule.get("patternProperties", {}).values():
        yield OF_OTHERS if "properties" in rule else NAME, resolved(own, rules)
    values = rule.get("additionalProperties")
    if isinstance(values, Mapping) and not rule.get("properties") and "description" in resolved(values, rules):
        yield NAME, resolved(values, rules)


def _inner(rule: Mapping[str, Any], rules: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The blocks directly in a rule, with what stands behind its key: nothing, a name, or that it is one of a list."""
    values = rule.get("additionalProperties")
    if rule.get("properties") or rule.get("patternProperties"):
        yield rule, ""
    elif isinstance(values, Mapping) and resolved(values, rules).get("properties"):
        yield resolved(values, rules), f".{NAME}"
    for each in rule.get("anyOf", ()):
        yield from _inner(resolved(each, rules), rules)
    if "items" in rule:
        for inner, suffix in _inner(resolved(rule["items"], rules), rules):
            yield inner, f"[]{suffix}"


def resolved(rule: Mapping[str, Any], rules: Mapping[str, Any]) -> Mapping[str, Any]:
    """A rule with its reference followed; what stands beside the reference wins."""
    if "$ref" not in rule:
        return rule
    target = rules["$defs"][rule["$ref"].rsplit("/", 1)[1]]
    return {**resolved(target, rules), **{key: value for key, value in rule.items() if key != "$ref"}}


def anchor(path: str) -> str:
    """The anchor of a key on the page."""
    return "key-" + path.replace('"', "").replace(":", "-").replace("[]", "")  # headings have the plain names


def _row(path: str, key: str, own: Mapping[str, Any], block: Mapping[str, Any], rules: Mapping[str, Any]) -> list[str]:
    place = f"{path}.{key}".lstrip(".")
    plain = {**own, "anyOf": [resolved(each, rules) for each in own["anyOf"]]} if "anyOf" in own else own
    if "items" in plain:
        plain = {**plain, "items": _deep(plain["items"], rules)}
    if key in block.get("required", ()):
        default = "required"
    elif "default" not in own:
        default = "–"
    else:
        default = "–" if own["default"] == {} else code(own["default"])
    name = f'<a id="{anchor(place)}"></a>`{key}`'
    said = prose(own.get("description", ""))
    inner = [f"[`{place}{suffix}`](#{heading(place + suffix)})" for _, suffix in _inner(own, rules)]
    return [name, allowed(plain), default, " ".join([said, *(f"See {each}." for each in inner)]).strip()]


def _deep(rule: Mapping[str, Any], rules: Mapping[str, Any]) -> Mapping[str, Any]:
    rule = resolved(rule, rules)
    return {**rule, "anyOf": [resolved(each, rules) for each in rule["anyOf"]]} if "anyOf" in rule else rule


def heading(path: str) -> str:
    """The anchor that the site gives to the heading of a block."""
    return "".join(letter for letter in path.lower() if letter.isalnum() or letter in "_-")
