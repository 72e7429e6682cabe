"""Files that are given as weights and are something else: what they are, and what to do."""

from __future__ import annotations

import zipfile
from typing import BinaryIO

# The first bytes of a file, what it is, and the remedy.
STARTS = (
    (b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes it; convert it to a torch checkpoint"),
    (b"\x93NUMPY", "an array of numpy; save a state dict with torch.save"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS in place of the file; run git lfs pull, or fetch the file itself",
    ),
    (b"<!doctype html", "a web page; fetch the file itself, not the page about it"),
    (b"<html", "a web page; fetch the file itself, not the page about it"),
    (b"GGUF", "GGUF; use the weights in safetensors"),
)


def foreign(start: bytes) -> str:
    """What a file is, by its first bytes, with a remedy; empty if it is not known."""
    text = start.lstrip()
    return next(
        (what for begin, what in STARTS if start.startswith(begin) or text.lower().startswith(begin.lower())), ""
    )


def foreign_zip(file: BinaryIO) -> str:
    """What a zip is, if it is not one that torch.save wrote, with a remedy; empty if it may be one."""
    with zipfile.ZipFile(file) as parts:
        inside = [part.filename for part in parts.infolist()]
    file.seek(0)
    if any("code" in name.split("/") and name.endswith(".py") for name in inside):
        return "a TorchScript program, not weights; save the state dict of the model it was made of"
    if inside and all(name.endswith(".npy") for name in inside):
        return "an archive of numpy; save a state dict with torch.save"
    if not any(name.endswith("data.pkl") for name in inside):
        return "a zip that torch.save did not write; unpack it, and give the path of the file of weights"
    return ""
