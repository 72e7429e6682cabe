"""How many versions of images a job asked for, and how many of them the model had to read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Passes:
    """Counts of versions (pairs of an image and a mask).

    Attributes:
        skipped: steps of a curve that its tolerance made unnecessary.
        repeated: versions that an earlier question about the same map contained.
        shared: versions that another map of the same images contains.
        remembered: versions whose whole question was answered for another map with the same order.
        computed: versions that the model has read.
        tokens: tokens of these versions.
        all_tokens: their tokens if none had been removed.
    """

    skipped: int = 0
    repeated: int = 0
    shared: int = 0
    remembered: int = 0
    computed: int = 0
    tokens: int = 0
    all_tokens: int = 0

    @property
    def asked(self) -> int:
        """All versions that the metrics are defined by."""
        return self.skipped + self.repeated + self.shared + self.remembered + self.computed

    def add(self, versions: int, tokens: int, removed: int = 0) -> None:
        """Count versions that are computed, all their tokens, and how many of these were removed."""
        self.computed += versions
        self.all_tokens += tokens
        self.tokens += tokens - removed

    def __str__(self) -> str:
        parts = {
            "with the same order as another map": self.remembered,
            "of another map": self.shared,
            "in an earlier question about the map": self.repeated,
            "skipped by a tolerance": self.skipped,
        }
        saved = [f"{number / self.asked:.1%} {how}" for how, number in parts.items() if number]
        tokens = (
            f"; they have {self.tokens / self.all_tokens:.1%} of the tokens" if self.tokens < self.all_tokens else ""
        )
        return (
            f"perturbed images: {self.asked} asked for, {self.computed} computed"
            + (f" ({', '.join(saved)})" if saved else "")
            + tokens
        )
