"""The forms of SAE files that fgg reads. Imports no torch.

A form is one function in a file of this folder, decorated with `sae_format`. It takes a path and gives a sae-lens SAE, or None
where the path does not look like its form; a path that does but cannot be read raises FggError.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fgg import registry


@dataclass(frozen=True)
class SaeFormat:
    """A form of SAE files: its name, the files by which it is known, and its function."""

    name: str
    files: str
    declaration: registry.Declaration


def sae_format(*, name: str, files: str, place: int = 500) -> Callable:
    """State what a form of SAE files is called, by which files it is known, and its place among those that are tried."""
    return lambda function: function


@functools.cache
def sae_formats() -> tuple[SaeFormat, ...]:
    """The forms, in the order in which they are tried."""
    found = list(registry.declarations(Path(__file__).parent, str(__package__), "sae_format"))
    found.sort(key=lambda own: (own.statement.get("place", 500), own.statement["name"]))
    return tuple(SaeFormat(own.statement["name"], own.statement["files"], own) for own in found)
