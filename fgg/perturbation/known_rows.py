"""Versions of images whose logits are known, so that several maps that contain a version compute it once.

This needs that a row's logits do not depend on the other rows of its pass, bit by bit. Otherwise a map's scores would depend on
which other maps a process has scored before. Whether it holds on this machine is tried out (`independent`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

EIGHTHS = (1, 2, 4, 6, 7)  # of the patches, which are removed when removal is tried out


class KnownRows:
    """Logits of single versions, by name; see `names`."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: bytes) -> bool:
        return name in self._places

    def add(self, new: Sequence[bytes], logits: Tensor) -> None:
        """Keep the logits (n, K) of versions that are not known."""
        start, end = len(self), len(self) + len(new)
        if self._logits is None or end > len(self._logits):
            larger = logits.new_empty(2 * end, logits.shape[1])
            if self._logits is not None:
                larger[:start] = self._logits[:start]
            self._logits = larger
        self._logits[start:end] = logits
        self._places.update(zip(new, range(start, end), strict=True))

    def take(self, wanted: Sequence[bytes]) -> Tensor:
        """The logits (n, K) of known versions."""
        assert self._logits is not None
        places = torch.tensor([self._places[name] for name in wanted], device=self._logits.device)
        return self._logits[places]


def names(owners: np.ndarray, packed: np.ndarray) -> list[bytes]:
    """What versions are called: the number of the image, int64 (n,), and the bits of the mask, uint8 (n, bytes)."""
    text = np.concatenate([owners.astype("<u4")[:, None].view(np.uint8), packed], axis=1)
    return [row.tobytes() for row in np.ascontiguousarray(text)]


def independent(
    answer: Callable[[Tensor, Tensor], Tensor], images: int, patches: int, rows: int, removal: bool
) -> bool:
    """Whether rows have the same logits, bit by bit, in another order, and with fewer others in a pass.

    Args:
        answer: logits (n, 1, K) of masks (n, 1, N) of the images with the numbers (n,), at most ``rows`` in a pass.
        removal: whether versions share a pass only if their masks name the same number of patches.
    """
    generator = torch.Generator().manual_seed(0)
    number = 2 * rows + 1 if removal else rows + 1
    drawn = torch.rand(number, patches, generator=generator)
    masks = drawn < 0.5
    if removal:
        counts = torch.tensor([patches * share // 8 for share in EIGHTHS])[torch.arange(number) % len(EIGHTHS)]
        masks = drawn.argsort(1).argsort(1) < counts[:, None]
    owners = torch.arange(number) % images
    order = torch.randperm(number, generator=generator)
    expected = answer(masks[:, None], owners)[order]
    for parts in ([order], order.split(max(1, number // 2))):
        found = torch.cat([answer(masks[part, None], owners[part]) for part in parts])
        if not torch.equal(found, expected):
            return False
    return True
