"""What must not leave the machine: absolute paths, which name folders and users."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# An absolute path of Unix or Windows, a home folder, or a file's URL; not the rest of https://… or a/b.
LOCAL = re.compile(r"(?<![\w:/.])/(?!/)[\w.~-]|(?<!\w)~[\w/\\]|(?<!\w)[A-Za-z]:[\\/]|file:/|\\\\\w")


def is_local(text: str) -> bool:
    """Whether a text holds an absolute path of some machine."""
    home = str(Path.home())
    return LOCAL.search(text) is not None or (len(home) > 1 and home in text)


def without_paths(value: Any, name: str, left_out: list[str]) -> Any:
    """A JSON value without the texts that hold an absolute path; their names are added to ``left_out``."""
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if not _drop(f"{name}.{key}", key, item, left_out)}
        return {key: without_paths(item, f"{name}.{key}", left_out) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        kept_items = [(at, item) for at, item in enumerate(value) if not _drop(f"{name}[{at}]", "", item, left_out)]
        return [without_paths(item, f"{name}[{at}]", left_out) for at, item in kept_items]
    return value


def _drop(name: str, key: str, item: Any, left_out: list[str]) -> bool:
    if is_local(str(key)) or (isinstance(item, str) and is_local(item)):
        left_out.append(name if not is_local(name) else "an entry named by a path")
        return True
    return False


def local_lines(text: str) -> Iterator[str]:
    """The lines of a text that hold an absolute path."""
    return (line for line in text.splitlines() if is_local(line))
