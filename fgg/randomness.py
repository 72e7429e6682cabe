"""Randomness by key: the same key gives the same numbers, whatever else runs, in any order."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def key(*parts: str | int) -> int:
    """A 128-bit integer that depends on the parts alone."""
    text = json.dumps([str(part) for part in parts]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def generator(*parts: str | int) -> np.random.Generator:
    """An independent random generator for a key such as ``(seed, "subsets", image_id, trial)``."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def content_id(values: np.ndarray) -> str:
    """An identifier made from an array's content, for images without a name."""
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()
