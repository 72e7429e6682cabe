"""Messages about errors in a configuration: the key, what was found, what is allowed. Does not import torch."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError

from fgg.attribution.registry import methods
from fgg.data.sources.registry import sources
from fgg.errors import FggError

KINDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping (keys with values)",
    "null": "null",
}
# Registry -> its names, and whether module:function is allowed as well.
NAMES: dict[str, tuple[Callable[[], Mapping[str, Any]], bool]] = {
    "attribution methods": (methods, True),
    "sources": (sources, False),
}
LARGEST = 2**63  # larger integers do not fit into tables
MOST_VALUES, MOST_DEPTH = 1_000_000, 100  # in a configuration, each alias counted as what it stands for
EXPONENT = re.compile(r"[+-]?\d+e[+-]?\d+", re.IGNORECASE)


def refuse(faults: Iterable[str]) -> None:
    """Raise an error if there are faults.

    Raises:
        FggError: lists the faults, one per line.
    """
    lines = sorted(line.replace("\n", "\\n") for line in faults)  # a key may contain a line break
    if lines:
        raise FggError("the configuration has faults:\n" + "\n".join(f"  {line}" for line in lines))


def unfit(config: Any) -> Iterator[str]:
    """Faults that a schema cannot exclude: aliases without bound, dates and similar types (also as keys), NaN, huge integers."""
    if fault := next(_boundless(config), None):
        yield fault
    else:
        yield from _unfit(config, "")


def _boundless(value: Any) -> Iterator[str]:
    """What makes a configuration larger than a file can be: YAML's aliases, by which parts hold others many times, or themselves."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(own: Any, place: str, depth: int) -> int:
        if not isinstance(own, Mapping | list | tuple):
            return 1
        if id(own) in above:
            raise FggError(f"{place}: this part contains itself, by an alias; write it out")
        if depth > MOST_DEPTH:
            raise FggError(f"{place[:80]}…: nested too deeply; a configuration has at most {MOST_DEPTH} levels")
        if id(own) not in sizes:
            above.add(id(own))
            parts = own.items() if isinstance(own, Mapping) else enumerate(own)
            sizes[id(own)] = 1 + sum(size(part, f"{place}.{key}".lstrip("."), depth + 1) for key, part in parts)
            above.discard(id(own))
        if sizes[id(own)] > MOST_VALUES:
            raise FggError(
                f"{place or 'top level'}: its aliases stand for more than {MOST_VALUES:,} values; write it out"
            )
        return sizes[id(own)]

    try:
        size(value, "", 0)
    except FggError as fault:
        yield str(fault)


def _unfit(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, bool) or not isinstance(key, str | int):
                yield f"{place or 'top level'}: the key {key} is read as a {type(key).__name__}; put it in quotes"
            yield from _unfit(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _unfit(inner, f"{place}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place}: {value} is not a finite number"
    elif isinstance(value, int) and abs(value) >= LARGEST:
        yield f"{place}: {shown(value)} is too large a number; allowed are integers below 2^63"
    elif value is not None and not isinstance(value, str | int | float):
        yield f"{place}: {value} is read as a {type(value).__name__}; put it in quotes if text is meant"


def explain(error: ValidationError, where: str = "") -> str:
    """A line that describes an error of the schema; ``where`` is the key of the validated part of the configuration."""
    place = (where + error.json_path.removeprefix("$").removeprefix(".")).removesuffix(".") or "top level"
    found, rule = error.instance, error.validator_value
    if error.validator == "anyOf":
        # An alternative of the right kind that does not fit says more than a list of all alternatives.
        near_misses = [each for each in error.context or () if each.validator not in ("type", "const", "enum")]
        if near_misses:
            return explain(near_misses[0], where)
    if error.validator == "additionalProperties" and isinstance(found, dict):
        allowed = sorted(error.schema["properties"])
        patterns = error.schema.get("patternProperties", {})
        others = [key for key in found if key not in allowed and not any(re.search(each, key) for each in patterns)]
        unknown = ", ".join(f"{key!r}{near(key, allowed)}" for key in others)
        return f"{place}: unknown key {unknown}; allowed: {', '.join(allowed)}"
    if error.validator == "required":
        lacking = [key for key in rule if key not in found]
        return f"{place}: the key {', '.join(map(repr, lacking))} is missing"
    if error.validator == "enum":
        return f"{place}: {shown(found)} is not allowed{near(found, rule)}; choose from: {_choices(rule)}"
    if error.validator == "registry":
        names, foreign = NAMES[str(rule)]
        more = ", or module:function" if foreign else ""
        return f"{place}: {shown(found)} is not allowed{near(found, names())}; choose from: {', '.join(names())}{more}"
    if "propertyNames" in error.absolute_schema_path:
        return (
            f"{place}: the name {found!r} is not allowed; names are letters, digits, _ and -, and begin with a letter "
            "or digit"
        )
    if error.validator == "uniqueItems":
        return f"{place}: {shown(found)} holds something twice (non-unique); name each once"
    if error.validator == "type":
        what = "nothing is given (null)" if found is None else f"{shown(found)} is {_type(found)}"
        return f"{place}: {what}; allowed: {allowed_by(error.schema)}{_hint(found)}"
    options = [option for each in error.schema.get("anyOf", ()) for option in each.get("enum", ())]
    return f"{place}: {shown(found)} does not fit{near(found, options)}; allowed: {allowed_by(error.schema)}"


def near(found: Any, allowed: Iterable[Any]) -> str:
    """A guess at what was meant, in brackets; empty if nothing is close."""
    match = difflib.get_close_matches(str(found), [str(option) for option in allowed], n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _choices(allowed: Iterable[Any]) -> str:
    return ", ".join("null" if each is None else str(each) for each in allowed)


def allowed_by(rule: Mapping[str, Any]) -> str:
    """What a rule of the schema allows, in words."""
    if "anyOf" in rule:
        return ", or ".join(allowed_by(each) for each in rule["anyOf"])
    if "const" in rule:
        return str(rule["const"])
    if "enum" in rule:
        return f"one of {_choices(rule['enum'])}"
    types = rule.get("type", [])
    words = " or ".join(KINDS[kind] for kind in ([types] if isinstance(types, str) else types)) or "a value"
    bounds = [
        f"{text} {rule[key]}"
        for key, text in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in rule
    ]
    least, most = rule.get("minItems", rule.get("minProperties")), rule.get("maxItems")
    if least is not None or most is not None:
        count = f"{least}" if least == most else f"{least or 0} or more" if most is None else f"{least or 0} to {most}"
        bounds.append(f"with {count} entries")
    if "pattern" in rule:
        bounds.append(f"of the form {rule['pattern']}")
    return " ".join([words, " and ".join(bounds)]).strip()


def shown(value: Any) -> str:
    """A value as the user wrote it, shortened if it is long."""
    text = repr(value) if not isinstance(value, int) or abs(value) < LARGEST else "it"
    return text if len(text) <= 80 else f"{text[:77]}…"


def _type(value: Any) -> str:
    for kind, types in (("boolean", bool), ("integer", int), ("number", float), ("string", str), ("null", type(None))):
        if isinstance(value, types):
            return KINDS[kind]
    return KINDS["object"] if isinstance(value, Mapping) else KINDS["array"] if isinstance(value, list) else "no value"


def _hint(found: Any) -> str:
    if isinstance(found, str) and EXPONENT.fullmatch(found):
        return f"; YAML reads {found} as text: write it with a point, such as {found.lower().replace('e', '.0e')}"
    return ""
