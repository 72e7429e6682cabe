"""Paths with braces, which Snakemake takes for wildcards. Does not import torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def nameable(files: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    """An input function of Snakemake without the user's files whose paths have braces.

    Snakemake has no way to name them. Their existence is checked before, and the param ``content`` tells of changes.
    """

    @functools.wraps(files)
    def of(wildcards: Any) -> list[str]:
        return [path for path in files(wildcards) if not {"{", "}"} & set(path)]

    return of
