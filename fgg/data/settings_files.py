"""Read JSON and YAML that others wrote, without following what a small file can make large. Does not import torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from fgg.errors import FggError, once_each

MOST_BYTES = 2**26  # of a file of settings
MOST_VALUES = 200_000  # in a YAML file, counting what an alias stands for each time


def parse_settings(text: str, kind: str) -> Any:
    """The value that a text of JSON or YAML stands for, made of plain values.

    Args:
        text: the text.
        kind: ``JSON`` or ``YAML``. YAML gives no objects but dates.

    Raises:
        ValueError: it is not valid, names a key twice, is nested too deeply, or its aliases stand for too much.
    """
    try:
        return _yaml(text) if kind == "YAML" else json.loads(text, object_pairs_hook=once_each)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a file of JSON, or of YAML if its name ends so.

    Raises:
        FggError: it holds none; see `parse_settings`.
    """
    kind = "YAML" if file.suffix in (".yaml", ".yml") else "JSON"
    if file.stat().st_size > MOST_BYTES:
        raise FggError(f"{file.name} is larger than {MOST_BYTES:,} bytes, too large for settings")
    try:
        config = parse_settings(file.read_text(encoding="utf-8"), kind)
    except ValueError as error:  # other syntax, or not UTF-8
        raise FggError(f"{file.name} is not valid {kind} ({_short(error)})") from None
    if not isinstance(config, dict):
        raise FggError(f"{file.name} must hold a {kind} object with settings")
    return config


def _yaml(text: str) -> Any:
    loader = yaml.SafeLoader(text)  # not its C twin, which deep nesting crashes
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node)
        return loader.construct_document(node)
    except (OverflowError, TypeError, AttributeError) as error:  # values that YAML's own types cannot hold
        raise ValueError(str(error)) from None
    finally:
        loader.dispose()


def _check_nodes(root: yaml.Node) -> None:
    """Raise ValueError if a tree of nodes stands for more than `MOST_VALUES` values, contains itself, or names a key twice."""
    sizes: dict[int, int | None] = {}  # None while a node's parts are being counted

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                raise ValueError("a part of it contains itself")
            return known
        sizes[id(node)] = None
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        parts = node.value if isinstance(node, yaml.SequenceNode) else [each for pair in node.value for each in pair]
        total = 1 + sum(size(part) for part in parts)
        if total > MOST_VALUES:
            raise ValueError(f"with its aliases it stands for more than {MOST_VALUES:,} values")
        sizes[id(node)] = total
        return total

    size(root)


def _check_keys(node: yaml.MappingNode) -> None:
    """Raise ValueError if a mapping names a key twice; YAML's reader would silently keep the last one."""
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if (key.tag, key.value) in seen:
            raise ValueError(f"line {key.start_mark.line + 1}: the key {key.value!r} is there twice")
        seen.add((key.tag, key.value))


def _short(error: Exception) -> str:
    return str(error)[:200]
