"""The user's files that a configuration names: images, checkpoints, SAEs. Does not import torch."""

from __future__ import annotations

import functools
import glob
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgg.data import locations
from fgg.data.sources.registry import sources as known_sources


def own_files(weights: str | Mapping[str, str], layers: Sequence[Any] = ("",)) -> list[str]:
    """The files or folders that must exist before the weights are read; none for ``train`` and ``pretrained``.

    For a download it is its contents.json; for a path with wildcards, all matching paths.
    """
    found: set[str] = set()
    for path in locations.own_paths(weights, layers):
        download = locations.fetched(path)
        found |= {locations.contents(download[0])} if download else set(_matching(path))
    return sorted(found)


def missing_files(dataset: str, settings: Mapping[str, Any], sources: Container[str] = ()) -> list[str]:
    """Faults in a dataset's paths that can be found before any job runs; ``sources`` can be downloaded."""
    faults = []
    for key, paths in locations.paths(settings).items():
        for path in paths:
            download = locations.fetched(path)
            if (download and download[0] in sources) or all(Path(own).exists() for own in _matching(path)):
                continue
            where = f"the table of sources has no {download[0]!r}" if download else f"seen from {Path.cwd()}"
            faults.append(f"datasets.{dataset}.{key}: {path} does not exist ({where})")
    source = settings["source"]
    if known_sources()[source].downloaded and not settings["path"] and source not in sources:
        faults.append(f"datasets.{dataset}.source: the table of sources has no {source!r}; set `path`")
    return faults


def nameable(files: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    """An input function of Snakemake without the user's files whose paths have braces.

    Snakemake has no way to name them. Their existence is checked before, and the param ``content`` tells of changes.
    """

    @functools.wraps(files)
    def of(wildcards: Any) -> list[str]:
        return [path for path in files(wildcards) if not {"{", "}"} & set(path)]

    return of


def _matching(path: str) -> list[str]:
    """The paths that match a path with wildcards; the path itself if it exists, has none, or if nothing matches."""
    if Path(path).exists():
        return [path]
    return sorted(glob.glob(path, recursive=True)) or [path]  # noqa: PTH207 - a pattern of the user, absolute or not
