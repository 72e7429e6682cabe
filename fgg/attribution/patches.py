"""From pixels to patches and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.models.arguments import whole_number


def to_patches(pixels: Tensor, patch_size: int | tuple[int, int]) -> Tensor:
    """Sum maps per pixel over patches.

    Args:
        pixels: (B, H, W), or (B, C, H, W), whose channels are summed too.
        patch_size: height and width of a patch in pixels, or one number for both.

    Returns:
        (B, N), patches row by row.

    Raises:
        FggError: other dimensions, patches that do not divide the maps, or other types.
    """
    _check_values(pixels, "maps per pixel")
    height, width = _pair(patch_size, "patch_size")
    if pixels.ndim not in (3, 4):
        raise FggError(f"maps per pixel are (B, H, W) or (B, C, H, W), not {tuple(pixels.shape)}")
    rows, columns = pixels.shape[-2:]
    if rows % height or columns % width:
        raise FggError(f"maps of {rows} x {columns} pixels are not divided by patches of {height} x {width}")
    maps = pixels.sum(1) if pixels.ndim == 4 else pixels
    return maps.unflatten(2, (-1, width)).unflatten(1, (-1, height)).sum((2, 4)).flatten(1)


def to_pixels(relevance: Tensor, grid: tuple[int, int], size: tuple[int, int], smooth: bool = False) -> Tensor:
    """Enlarge relevance of patches to pixels.

    Args:
        relevance: (B, N), patches row by row.
        grid: rows and columns of patches, or one number for both.
        size: height and width in pixels, or one number for both.
        smooth: interpolate bilinearly between the centres of patches; False gives all pixels of a patch its value.

    Returns:
        (B, H, W).

    Raises:
        FggError: relevance that does not fill the grid, or other types.
    """
    _check_values(relevance, "relevance")
    grid, size = _pair(grid, "grid"), _pair(size, "size")
    relevance = relevance if relevance.is_floating_point() else relevance.float()
    if relevance.ndim != 2 or relevance.shape[1] != grid[0] * grid[1]:
        raise FggError(f"relevance is {tuple(relevance.shape)}, which does not fill a grid of {grid[0]} x {grid[1]}")
    maps = relevance.unflatten(1, grid)[:, None]
    if smooth:
        return torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]
    return torch.nn.functional.interpolate(maps, size, mode="nearest-exact")[:, 0]


def _check_values(values: Any, name: str) -> None:
    if not isinstance(values, Tensor):
        raise FggError(f"{name} must be a tensor, not a {type(values).__name__}; see torch.from_numpy")
    if values.is_complex():
        raise FggError(f"{name}: {values.dtype} is complex; take .real or .abs()")


def _pair(value: Any, name: str) -> tuple[int, int]:
    """Two whole numbers, or one for both. Raises FggError for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        value = (value, value)
    if len(value) != 2:
        raise FggError(f"{name}: {value!r} must be two numbers, or one for both")
    return whole_number(value[0], name), whole_number(value[1], name)
