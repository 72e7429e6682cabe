"""Shards: groups of a split's images that separate jobs work on. Imports no torch.

A shard is made of whole batches of the undivided run, so that every image is computed in the same company: results differ
in the last bits between batches, and the merged table shall be the undivided one, byte for byte. More shards than batches
leave some empty.
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
        """Read ``3-of-7``. Raises ArgumentTypeError, for argparse."""
        found = re.fullmatch(r"([0-9]+)-of-([0-9]+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise argparse.ArgumentTypeError(f"{text!r} is not a shard such as 1-of-4")
        return cls(int(found[1]), int(found[2]))

    def rows(self, images: int, batch: int) -> slice:
        """The shard's share of ``images``: whole batches, as evenly as they go."""
        batches = -(-images // batch)
        first, last = (
            min(images, batch * (batches * number // self.count)) for number in (self.number - 1, self.number)
        )
        return slice(first, last)


WHOLE = Shard()
