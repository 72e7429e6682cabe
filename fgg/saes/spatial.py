"""Whether a feature's activations lie together on the grid of patches: Moran's I (Moran 1950).

For a map x of N patches with weights w_ij = 1 for neighbours i and j, else 0, and z = x - mean(x),

    I = N / sum_ij w_ij * sum_ij w_ij z_i z_j / sum_i z_i^2.

Patches in one region give values near 1, a checkerboard -1, and a random order of the same activations has the expectation
-1 / (N - 1). Neighbours share an edge (rook), or also a corner (queen), as in ViSAEBench.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# The maps that ViSAEBench takes for meaningful: fewer active patches say nothing, more are a background.
LEAST_ACTIVE, MOST_ACTIVE = 5, 0.9
NEIGHBOURS = {
    "morans_i": False,
    "morans_i_queen": True,
}  # measure -> whether patches that share a corner are neighbours


def morans_i(maps: Tensor, grid: tuple[int, int], corners: bool = False) -> Tensor:
    """Moran's I of maps (…, N): float64 (…); NaN for a constant map, and for a grid without neighbours.

    Args:
        maps: values of the patches, row by row.
        grid: rows and columns of patches.
        corners: whether patches that share only a corner are neighbours (queen instead of rook).
    """
    x = maps.double()
    z = (x - x.mean(-1, keepdim=True)).unflatten(-1, grid)
    pairs = [(z[..., 1:, :], z[..., :-1, :]), (z[..., :, 1:], z[..., :, :-1])]
    if corners:
        pairs += [(z[..., 1:, 1:], z[..., :-1, :-1]), (z[..., 1:, :-1], z[..., :-1, 1:])]
    products = torch.stack([(one * other).sum((-2, -1)) for one, other in pairs]).sum(0)
    neighbours = sum(one.shape[-1] * one.shape[-2] for one, _ in pairs)
    # Each pair of neighbours counts twice, in the products and in the weights.
    found = math.prod(grid) / max(neighbours, 1) * products / z.square().sum((-2, -1))
    undefined = (maps.amax(-1) == maps.amin(-1)) | torch.tensor(neighbours == 0, device=maps.device)
    return torch.where(undefined, torch.nan, found)


class Spatial:
    """Moran's I of each feature, averaged over images, and its mean over the features, from a stream of images.

    A feature's map on an image counts if at least `LEAST_ACTIVE` and at most the share `MOST_ACTIVE` of its patches are
    active (not 0), and if it is not constant.

    Args:
        features: F.
        grid: rows and columns of patches.
        device: of the codes.
    """

    def __init__(self, features: int, grid: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self._grid = grid
        self._sums = {name: torch.zeros(features, dtype=torch.float64, device=device) for name in NEIGHBOURS}
        self._maps = torch.zeros(features, dtype=torch.int64, device=device)
        self._left_out = {"few": 0, "many": 0, "constant": 0}

    @torch.no_grad()
    def update(self, codes: Tensor) -> None:
        """Add the codes (B, N, F) of some images."""
        patches = codes.shape[1]
        active = (codes != 0).sum(1)
        shown = active > 0
        constant = shown & (codes.amax(1) == codes.amin(1))
        few = shown & ~constant & (active < LEAST_ACTIVE)
        many = shown & ~constant & (active > MOST_ACTIVE * patches)
        for name, left_out in (("few", few), ("many", many), ("constant", constant)):
            self._left_out[name] += int(left_out.sum())
        good = shown & ~(constant | few | many)
        maps = codes.transpose(1, 2)[good]
        for name, corners in NEIGHBOURS.items():
            found = torch.zeros(good.shape, dtype=torch.float64, device=codes.device)
            found[good] = morans_i(maps, self._grid, corners).nan_to_num()
            self._sums[name] += found.sum(0)
        self._maps += good.sum(0)

    def result(self) -> dict[str, Any]:
        """The means over the features with a map that counts, NaN if there is none; the expectation of a random order.

        ``morans_i_features`` and ``morans_i_maps`` count features and maps; ``maps_few``, ``maps_many`` and ``maps_constant``
        count the maps that were left out for too few or too many active patches, or for equal values.
        """
        known = self._maps > 0
        patches = math.prod(self._grid)
        possible = max(self._grid) > 1
        means = {
            name: float((sums[known] / self._maps[known]).mean()) if possible else math.nan
            for name, sums in self._sums.items()
        }
        return {
            **means,
            "morans_i_random": -1 / (patches - 1) if patches > 1 else math.nan,
            "morans_i_features": int(known.sum()),
            "morans_i_maps": int(self._maps.sum()),
            **{f"maps_{name}": count for name, count in self._left_out.items()},
        }
