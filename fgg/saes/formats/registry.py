"""The SAE file formats that fgg reads. Does not import torch.

A format is one function in a file of this folder, decorated with `sae_format`. It takes a path and returns a sae-lens
SAE, or None if the path does not look like its format. A path that does but cannot be read raises FggError.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fgg import registry


@dataclass(frozen=True)
class SaeFormat:
    """An SAE file format: its name, the files that identify it, and its function."""

    name: str
    files: str
    declaration: registry.Declaration


def sae_format(*, name: str, files: str, place: int = 500) -> Callable:
    """Declare a format: its name, the files that identify it, and its place in the order in which formats are tried."""
    return lambda function: function


@functools.cache
def sae_formats() -> tuple[SaeFormat, ...]:
    """The formats, in the order in which they are tried."""
    found = list(registry.declarations(Path(__file__).parent, str(__package__), "sae_format"))
    found.sort(key=lambda own: (own.statement.get("place", 500), own.statement["name"]))
    return tuple(SaeFormat(own.statement["name"], own.statement["files"], own) for own in found)
