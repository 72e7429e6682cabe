"""Shards: groups of a split's images that separate jobs work on. Does not import torch.

A shard consists of whole batches of the undivided run, so that every image is computed in the same batch as in
that run. Results differ in the last bits between batches, and the merged table must equal the undivided one byte for
byte. If there are more shards than batches, some shards are empty.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """One of ``count`` groups of images, by its number from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse text such as ``3-of-7``. Raises argparse.ArgumentTypeError for other text."""
        found = re.fullmatch(r"([0-9]+)-of-([0-9]+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise argparse.ArgumentTypeError(f"{text!r} is not a shard such as 1-of-4")
        return cls(int(found[1]), int(found[2]))

    def rows(self, images: int, batch: int) -> slice:
        """The shard's rows of ``images``: whole batches, divided as evenly as possible."""
        batches = -(-images // batch)
        first, last = (
            min(images, batch * (batches * number // self.count)) for number in (self.number - 1, self.number)
        )
        return slice(first, last)


WHOLE = Shard()
