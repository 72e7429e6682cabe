"""What the Snakemake rules need besides their wiring. Imports no torch, so that a dry run is quick."""

from __future__ import annotations

import ast
import functools
import glob
import hashlib
import json
import os
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgg import degeneracy
from fgg.config import STUDIES, Config
from fgg.data import locations


def as_json(value: Any) -> str:
    """JSON in one spelling: the order of keys and the spelling of numbers do not count as a change."""

    def plain(inner: Any) -> Any:
        if isinstance(inner, Mapping):
            return {key: plain(own) for key, own in inner.items()}
        if isinstance(inner, list | tuple):
            return [plain(own) for own in inner]
        return int(inner) if isinstance(inner, float) and inner.is_integer() else inner

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


@functools.cache
def code_hash(module: str, folder: str) -> str:
    """A hash of a module and of all the package's modules it imports; comments and layout do not count."""
    found: dict[str, str] = {}
    names = {module}
    while names:
        file = _file(Path(folder), names.pop())
        if file and str(file) not in found:
            own = file.relative_to(folder).with_suffix("").parts
            found[str(file)], imported = _code(file.read_text(encoding="utf-8"), own[:-1])
            names |= imported
    return hashlib.sha256("".join(found[file] for file in sorted(found)).encode()).hexdigest()[:12]


def _file(folder: Path, module: str) -> Path | None:
    """The file of a module; none where it is another package's, or no module."""
    place = folder.joinpath(*module.split("."))
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


@functools.cache
def _code(text: str, package: tuple[str, ...]) -> tuple[str, frozenset[str]]:
    """The syntax tree of a package's module, and what it imports, at its head or later; not all need be modules.

    Its package is among them, which Python runs first.
    """
    tree = ast.parse(text)
    found = {".".join(package)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            start = ".".join([*above, *filter(None, [node.module])])
            found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in found if name]
    return ast.dump(tree), frozenset(".".join(each[: size + 1]) for each in parts for size in range(len(each)))


def pick(config: Config, dataset: Mapping[str, Any], keys: Sequence[str]) -> Config:
    """The settings a job needs: keys of the dataset, or of the whole run; ``a.b`` is taken out as ``b``."""
    chosen = {}
    for key in keys:
        value: Any = dataset if key.split(".")[0] in dataset else config
        for part in key.split("."):
            value = value[part]
        chosen[key.rsplit(".", 1)[-1]] = value
    return chosen


def known_layers(folder: Path, depth: int | None) -> dict[int, str]:
    """Layer -> degeneracy: measured where the model exists already, else expected from the depth, else nothing."""
    try:
        return degeneracy.measured(json.loads((folder / "model.json").read_text(encoding="utf-8"))["layers"])
    except (OSError, ValueError, LookupError, TypeError):
        return degeneracy.expected(depth) if depth else {}


def warn_degenerate(dataset: str, grid: Mapping[str, Config], layers: Mapping[int, str]) -> None:
    """Tell on standard error, before any job runs, which experiments mean nothing."""
    for name, settings in grid.items():
        remark = degeneracy.note(settings, layers)
        if remark:
            print(f"warning: {dataset}: {name}: {remark}", file=sys.stderr)


def folder_digest(path: str | None) -> str:
    """Names, sizes and dates of the files below a folder, hashed: changed pictures are prepared anew."""
    if not path or not Path(path).is_dir():
        return ""
    files = sorted(file for file in Path(path).rglob("*") if file.is_file())
    facts = [(file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(as_json(facts).encode()).hexdigest()[:12]


def own_files(weights: str | Mapping[str, str], layers: Sequence[Any] = ("",)) -> list[str]:
    """The files or folders to wait for before the weights of a setting are read; none for ``train``, ``pretrained``.

    Of a download that is its contents.json; of a path with wildcards, all that matches.
    """
    found: set[str] = set()
    for path in locations.own_paths(weights, layers):
        download = locations.fetched(path)
        found |= {locations.contents(download[0])} if download else set(_matching(path))
    return sorted(found)


def missing_files(dataset: str, settings: Mapping[str, Any], sources: Container[str] = ()) -> list[str]:
    """Faults of a dataset's paths that can be seen before any job runs; ``sources`` are what can be downloaded."""
    faults = []
    for key, paths in locations.paths(settings).items():
        for path in paths:
            download = locations.fetched(path)
            if (download and download[0] in sources) or all(Path(own).exists() for own in _matching(path)):
                continue
            where = f"the table of sources has no {download[0]!r}" if download else f"seen from {Path.cwd()}"
            faults.append(f"datasets.{dataset}.{key}: {path} does not exist ({where})")
    source = settings["source"]
    if source in STUDIES and not settings["path"] and source not in sources:
        faults.append(f"datasets.{dataset}.source: the table of sources has no {source!r}; set `path`")
    return faults


def _matching(path: str) -> list[str]:
    """What a path with wildcards matches; the path itself if it has none, or nothing matches."""
    return sorted(glob.glob(path, recursive=True)) or [path]  # noqa: PTH207 - a pattern of the user, absolute or not


def accelerators(device: str, local: bool) -> int:
    """The GPUs that a job asks for: none where the models run on the CPU, so that its jobs run side by side.

    Args:
        device: the configuration's ``device``; ``auto`` asks for a GPU when this machine has one.
        local: whether jobs run on this machine; a cluster's nodes are taken to have one.
    """
    if device == "auto":
        present = any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd"))
        return int(present or not local)
    return int(device == "cuda")


def doubled(first: int) -> Callable[..., int]:
    """A resource that every further attempt asks twice as much of, as Snakemake wants it: a function."""

    def of(wildcards: Any, attempt: int) -> int:
        return first * 2 ** (attempt - 1)

    return of


def use_environment(folder: str) -> None:
    """Let jobs run in the environment that Snakemake runs in, and find the package from any working folder.

    Threads that wait for each other soon sleep instead of spinning: two spinning threads on cores that something else
    uses too were seen to take six times as long. Each job's log ends with what its start cost.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # some tens of microseconds, the gap between two operations
    os.environ.setdefault("FGG_TIMING", "1")
    python, inherited = str(Path(sys.executable).parent), os.environ.get("PYTHONPATH")
    os.environ["PATH"] = os.pathsep.join([python, os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([inherited] if inherited else [])])
