"""What an engine keeps of the questions about a batch of maps, so that a version that several contain is computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fgg.perturbation.known_rows import KnownRows
from fgg.perturbation.passes import Passes


class OneMap:
    """The versions that the questions about a batch of maps have asked for so far.

    Args:
        passes: where versions that are not computed are counted.
    """

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._versions: dict[bytes, Tensor] = {}  # of all images at once, (B, K)
        self._rows: set[bytes] = set()

    def by_rows(self, wanted: Sequence[bytes], known: KnownRows, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """Logits (n, K) of versions of single images; ``compute`` gives those at some places of the list."""
        new = {name: place for place, name in reversed(list(enumerate(wanted))) if name not in known}
        places = sorted(new.values())
        of_map = {name for name in wanted if name not in self._rows or name not in known}
        self._passes.repeated += len(wanted) - len(of_map)
        self._passes.shared += len(of_map) - len(places)
        self._rows.update(wanted)
        if places:
            known.add([wanted[place] for place in places], compute(places))
        return known.take(wanted)

    def by_versions(self, packed: np.ndarray, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """Logits (B, V, K) of versions of all images; ``compute`` gives those at some places, (B, v, K).

        Args:
            packed: the bits of the masks, uint8 (B, V, bytes).
        """
        names = [hashlib.sha256(packed[:, version].tobytes()).digest() for version in range(packed.shape[1])]
        new = {name: version for version, name in enumerate(names) if name not in self._versions}
        self._passes.repeated += len(packed) * (len(names) - len(new))
        if new:
            self._versions |= dict(zip(new, compute(list(new.values())).unbind(1), strict=True))
        return torch.stack([self._versions[name] for name in names], dim=1)
