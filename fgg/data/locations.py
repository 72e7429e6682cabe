"""Where downloads are stored, and how a setting that names weights becomes a path. Does not import torch.

All downloads are stored below ``data/downloads``: ``{source}/`` for a row of the table of sources,
``hub/{owner}/{repository}/`` for weights named as ``hf://OWNER/REPOSITORY/FILE``, or ``hf://OWNER/REPOSITORY``. A folder is complete when its
``contents.json`` exists; the workflow's jobs wait for that file.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from fgg.data.hub_files import wanted
from fgg.data.pretrained_saes import LENS_SCHEME, hub_address
from fgg.data.sources.registry import masks_folder
from fgg.errors import FggError, names

DOWNLOADS, CONTENTS, HUB, SCHEME = "data/downloads", "contents.json", "hub", "hf://"
RESERVED = (HUB, "parts", "records")  # folders beside those of the sources
KINDS = ("http", "drive", "hub")
UNPACK = ("no", "yes")
LAYER = "{layer}"


@dataclass(frozen=True)
class Row:
    """A row of the table of sources.

    ``address``: a URL (http); the id of a file, or a URL (drive); or OWNER/REPOSITORY, for a dataset
    datasets/OWNER/REPOSITORY, both with an optional @REVISION (hub). ``files``: the name under which a single file is
    stored, or the repository's files to fetch, with * and ?, separated by spaces, with ``|`` between those of which one is
    enough, and with ``optional:`` in front if they may be absent (hub). ``size``: approximate bytes.
    """

    name: str
    kind: str
    address: str
    files: str
    unpack: str = "no"
    sha256: str = ""
    size: str = ""
    licence: str = ""
    citation: str = ""


def read_sources(path: str | Path) -> dict[str, Row]:
    """The table of sources by name.

    Raises:
        FggError: the file does not exist, its columns are wrong, a name is repeated or reserved, a kind is unknown,
            or a value is malformed.
    """
    path = Path(path)
    if not path.is_file():
        raise FggError(f"sources: {path} does not exist; give a table of sources such as workflow/sources.csv")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = [field.name for field in fields(Row)]
        if reader.fieldnames != columns:
            raise FggError(f"sources: {path} has the columns {reader.fieldnames}; they must be {columns}")
        lines = list(reader)
    rows: dict[str, Row] = {}
    for line in lines:
        if None in line or None in line.values():
            raise FggError(f"sources: {path}: the line of {line['name']!r} has too many or too few fields")
        row = Row(**{key: value.strip() for key, value in line.items()})
        fault = _fault(row)
        if row.name in rows:
            fault = "the name occurs twice"
        if fault:
            raise FggError(f"sources: {path}: {row.name!r}: {fault}")
        rows[row.name] = row
    return rows


def _fault(row: Row) -> str:
    """What is wrong with a row; empty if nothing is."""
    if not row.name or row.name in RESERVED or row.name != Path(row.name).name or row.name.startswith("."):
        return f"the name must be a valid folder name other than {', '.join(RESERVED)}"
    if row.kind not in KINDS:
        return f"kind {row.kind!r} is unknown; choose from: {', '.join(KINDS)}"
    if row.unpack not in UNPACK:
        return f"unpack {row.unpack!r} is unknown; choose from: {', '.join(UNPACK)}"
    if not row.address or not row.files:
        return "address and files must not be empty"
    if row.kind != "hub" and (row.files != Path(row.files).name or row.files in (".", "..")):
        return f"files {row.files!r} is not the name of one file"
    if row.sha256 and (len(row.sha256) != 64 or set(row.sha256) - set("0123456789abcdef")):
        return "sha256 is not 64 hexadecimal digits in lower case"
    if row.size and not row.size.isdigit():
        return f"size {row.size!r} is not a number of bytes"
    return ""


def local(address: str, parts: int = 3) -> str:
    """The path of a setting's file: ``hf://OWNER/REPOSITORY/FILE`` becomes a path below data/downloads/hub.

    Args:
        parts: the minimum number of parts of an address on the hub; 2 for a whole repository.

    Raises:
        FggError: an address on the hub has fewer parts, or invalid ones.
    """
    if not address.startswith(SCHEME):
        return str(Path(address).expanduser()) if address.startswith("~") else address
    names = address.removeprefix(SCHEME).rstrip("/").split("/")
    if len(names) < parts or not all(names) or {".", ".."} & set(names):
        wanted = "/".join(("OWNER", "REPOSITORY", "FILE")[:parts])
        raise FggError(f"{address!r} is not an address on the hub; write {SCHEME}{wanted}")
    return "/".join([DOWNLOADS, HUB, *names])


def local_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's settings, with ``~`` expanded and every address on the hub replaced by the path of its download.

    Raises:
        FggError: an address is malformed; the message names the key.
    """
    own = copy.deepcopy(dict(settings))
    model, sae = own["model"], own["sae"]
    if LENS_SCHEME in str(sae["weights"]):
        with _named("sae.weights"):
            sae["weights"] = resolved(sae["weights"], sae["layers"])
    for key in ("path", "masks"):
        if (own.get(key) or "").startswith("~"):
            own[key] = str(Path(own[key]).expanduser())
    if isinstance(own.get("sample"), dict):
        own["sample"]["ids"] = str(Path(own["sample"]["ids"]).expanduser())
    with _named("model.weights"):
        model["weights"] = local(model["weights"], parts=2)
    if model.get("zero_shot"):
        with _named("model.zero_shot.open_clip"):
            model["zero_shot"]["open_clip"] = local(model["zero_shot"]["open_clip"], parts=2)
    with _named("sae.weights"):
        weights = sae["weights"]
        if isinstance(weights, str):
            sae["weights"] = local(weights)
        else:
            sae["weights"] = {layer: local(address) for layer, address in weights.items()}
    return own


def resolved(weights: str | Mapping[str, str], layers: Sequence[Any]) -> dict[str, str]:
    """A ``sae.weights`` setting per layer, with ``sae-lens://RELEASE/SAE_ID`` replaced by its address on the hub.

    Raises:
        FggError: sae-lens knows no such release or id, or fgg cannot read its files.
    """
    chosen = {str(layer): of_layer(weights, layer).replace(LAYER, str(layer)) for layer in layers}
    return {layer: hub_address(own) if own.startswith(LENS_SCHEME) else own for layer, own in chosen.items()}


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except FggError as error:
        raise FggError(f"{key}: {error}") from None


def paths(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """The paths that a dataset's settings (as `local_settings` returns them) name, by key."""
    model, sae = settings["model"], settings["sae"]
    found = {
        "path": [settings["path"]] if settings["source"] == "image_folder" or settings["path"] else [],
        "masks": [masks] if (masks := masks_folder(settings)) else [],
        "model.weights": own_paths(model["weights"]),
        "sae.weights": own_paths(sae["weights"], sae["layers"]),
    }
    clip = (model.get("zero_shot") or {}).get("open_clip", "")
    return found | ({"model.zero_shot.open_clip": [clip]} if fetched(clip) else {})


def own_paths(weights: str | Mapping[str, str], layers: Sequence[Any] = ("",)) -> list[str]:
    """The paths that a ``weights`` setting names; none for ``train`` and ``pretrained``."""
    chosen = {of_layer(weights, layer).replace(LAYER, str(layer)) for layer in layers}
    return sorted(chosen - {"train", "pretrained"})


def weights_faults(settings: Mapping[str, Any]) -> Iterator[str]:
    """Errors in the addresses of weights, and in a single SAE that is named for several layers."""
    try:
        local_settings(settings)
        layers = [of_layer(settings["sae"]["weights"], layer) for layer in settings["sae"]["layers"]]
    except FggError as error:
        yield str(error)
        return
    for weights, count in Counter(layers).items():
        if weights != "train" and LAYER not in weights and count > 1:
            yield f"sae.weights: {weights!r} needs the placeholder {LAYER} for several layers"


def hub_rows(datasets: Iterable[Mapping[str, Any]]) -> dict[str, Row]:
    """Rows, by name, for the repositories on the hub that the datasets' settings name."""
    files: dict[str, set[str]] = {}
    for settings in datasets:
        for key, named in paths(settings).items():
            for path in named:
                found = fetched(path)
                if found and found[0].startswith(f"{HUB}/"):
                    files.setdefault(found[0], set()).update(wanted(key, found[1]))
    return {name: hub_row(name, sorted(patterns)) for name, patterns in files.items()}


def hub_row(name: str, patterns: Sequence[str]) -> Row:
    """The row for hub/OWNER/REPOSITORY, which is not in the table."""
    return Row(name, "hub", name.removeprefix(f"{HUB}/"), " ".join(patterns), licence="see its page on the hub")


def of_layer(weights: str | Mapping[str, str], layer: Any) -> str:
    """The setting ``sae.weights`` for one layer: the setting itself, or a mapping's entry for the layer or ``default``.

    Raises:
        FggError: the mapping has neither entry.
    """
    if isinstance(weights, str):
        return weights
    try:
        return weights[str(layer)] if str(layer) in weights else weights["default"]
    except KeyError:
        raise FggError(f"sae.weights: no entry for layer {layer}, and no default") from None


def fetched(path: str) -> tuple[str, str] | None:
    """(source, path within it) for a path that a download creates; None for any other path."""
    parts = PurePosixPath(path).parts
    depth = len(PurePosixPath(DOWNLOADS).parts)
    if parts[:depth] != PurePosixPath(DOWNLOADS).parts or len(parts) == depth:
        return None
    own = depth + (3 if parts[depth] == HUB else 1)
    if len(parts) < own:
        return None
    return "/".join(parts[depth:own]), "/".join(parts[own:])


def contents(source: str) -> str:
    """The file that marks a source as completely downloaded."""
    return f"{DOWNLOADS}/{source}/{CONTENTS}"


def locate(path: str | Path, key: str) -> Path:
    """The one file or folder that matches a path with ``*``, ``?`` or ``**``; other paths are returned unchanged.

    Raises:
        FggError: nothing matches, or several do; the message names the setting ``key``.
    """
    path = Path(path).expanduser()
    if path.exists() or not glob.has_magic(str(path)):
        return path
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - a Path has no glob of its own pattern
    if len(found) == 1:
        return Path(found[0])
    if found:
        raise FggError(f"{key}: {path} matches {len(found)} files ({names(found, most=5)}); name the right one")
    base = _fixed_part(path)
    if not base.is_dir():
        raise FggError(f"{key}: {path} matches nothing; the folder {base} does not exist")
    there = sorted(file.relative_to(base).as_posix() for file in base.rglob("*") if file.is_file())
    raise FggError(f"{key}: {path} matches nothing; {base} holds {names(there, most=5) or 'nothing'}")


def _fixed_part(path: Path) -> Path:
    """The deepest folder of the path that is named without a wildcard."""
    plain = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)
