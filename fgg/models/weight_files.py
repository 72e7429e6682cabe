"""Find the files of a checkpoint: one file, a folder, or the parts of a sharded one with its index."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgg.data.locations import locate
from fgg.data.settings_files import parse_settings
from fgg.errors import FggError, names
from fgg.models.checkpoint_files import SUFFIXES

INDEX = ".index.json"
MOST_INDEX_BYTES = 2**26
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
# Files of weights in a folder, best first.
IN_A_FOLDER = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
)  # fmt: skip
CHOICES = "choose 'train', 'pretrained' or the path of a file"


def weight_files(path: str | Path) -> tuple[list[Path], Mapping[str, str] | None]:
    """The files that hold a checkpoint's tensors, and the index (tensor -> file) if there is one.

    Args:
        path: a file, a folder, the index or any part of a sharded checkpoint, or a pattern with ``*``, ``?`` or ``**``
            that matches one checkpoint; ``~`` is the home folder.

    Raises:
        FggError: nothing or several checkpoints match, a part is missing, or the index is damaged.
    """
    own = chosen(path)
    if own.is_dir():
        own = _in_folder(own)
    if own.exists() and not own.is_file():
        raise FggError(f"{own} is no file, but a pipe or a device; {CHOICES}")
    if not own.is_file():
        raise FggError(f"{own} does not exist; {CHOICES}")
    if own.name.endswith(INDEX):
        return _of_index(own)
    part = PART.fullmatch(own.name)
    if not part:
        return [own], None
    index = own.with_name(f"{part[1]}{part[4]}{INDEX}")
    if index.is_file():
        return _of_index(index)
    count = int(part[3])
    files = [own.with_name(f"{part[1]}-{number:05d}-of-{part[3]}{part[4]}") for number in range(1, count + 1)]
    _all_there(own, files)
    return files, None


def chosen(path: str | Path) -> Path:
    """The checkpoint that matches a path with ``*``, ``?`` or ``**``: of several formats of one, the safetensors.

    Of a sharded checkpoint it is the index, or the first part.

    Raises:
        FggError: nothing matches, or several checkpoints match.
    """
    path = Path(path).expanduser()
    if path.exists() or not glob.has_magic(str(path)):
        return path
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 - a user's pattern
    for kind in (".safetensors", ".bin"):
        indices = [own for own in found if own.name.endswith(kind + INDEX)]
        parts = [own for own in found if own.suffix == kind and PART.fullmatch(own.name)]
        whole = [own for own in found if own.suffix == kind and own not in parts]
        if len(whole) == 1 and kind == ".safetensors":
            return whole[0]
        stems = {(own.parent, PART.sub(r"\1-of-\3", own.name)) for own in parts}
        if not whole and len(stems) <= 1 and len(indices) <= 1 and (indices or parts):
            return (indices or parts)[0]
    return locate(path, "model.weights")


def folder_of(path: str | Path) -> Path:
    """The folder of the checkpoint that a path names, with which its config lies."""
    own = chosen(path)
    return own if own.is_dir() else own.parent


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object in a file beside weights.

    Raises:
        FggError: the file is no such object, or too large.
    """
    try:
        if path.stat().st_size > MOST_INDEX_BYTES:
            raise ValueError("it is too large")
        found = parse_settings(path.read_text(encoding="utf-8"), "JSON")
        if not isinstance(found, dict):
            raise ValueError("it is not an object in braces")
    except (ValueError, OSError) as error:
        raise FggError(f"model.weights: {path} cannot be read ({error}); fetch it again") from None
    return found


def _in_folder(folder: Path) -> Path:
    known = [folder / name for name in IN_A_FOLDER if (folder / name).is_file()]
    if known:
        return known[0]
    files = sorted(own for own in folder.iterdir() if own.is_file())
    if any(own.suffix == ".distcp" for own in files):
        raise FggError(
            f"{folder} is a distributed checkpoint; convert it with python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE, and give the file"
        )
    if any(own.name.startswith("adapter_model.") for own in files):
        raise FggError(
            f"{folder} holds adapters that are not merged into the weights; merge them first, with peft by "
            "model.merge_and_unload(), and save the state dict of the result"
        )
    indices = [own for own in files if own.name.endswith(INDEX)]
    if len(indices) == 1:
        return indices[0]
    parts = [own for own in files if PART.fullmatch(own.name)]
    weights = [own for own in files if own.name.endswith((*SUFFIXES, INDEX))]
    if len(weights) == 1 or (parts and len(parts) == len(weights)):
        return weights[0]
    found = f"holds several files of weights ({names([own.name for own in weights])})" if weights else "holds none"
    raise FggError(f"{folder} is a folder and {found}; {CHOICES}")


def _of_index(path: Path) -> tuple[list[Path], Mapping[str, str]]:
    placed = read_object(path).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(own, str) for own in placed.values()):
        raise FggError(f"{path} has no weight_map that names a file for each tensor; fetch it again")
    shards = sorted(set(placed.values()))
    if outside := [own for own in shards if own != Path(own).name or own in ("", ".", "..")]:
        raise FggError(f"{path} names files outside its folder ({names(outside)}); it was refused")
    files = [path.with_name(own) for own in shards]
    _all_there(path, files)
    return files, placed


def _all_there(path: Path, files: list[Path]) -> None:
    if lacking := [own.name for own in files if not own.is_file()]:
        raise FggError(
            f"{path} belongs to a checkpoint of {len(files)} files, but {names(lacking)} is missing; fetch it"
        )
