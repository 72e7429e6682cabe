"""Curves of which only the steps are measured that their area needs.

The ends and a few steps between them are measured first. Between two measured steps a < b, the curve is taken as straight.
Assumed is that p stays there within the range of what was measured at a, at b, and at the measured steps next to them, as
it does if the curve is monotone. With S steps in all, the area is then off by at most

    (b - a - 1) max(highest - m, m - lowest) / S,    m = (p(a) + p(b)) / 2.

The intervals with the largest such errors are halved until their sum is below the tolerance. Without the assumption, only
0 <= p <= 1 holds, and 1 and 0 take the places of highest and lowest.

Which steps of an image are measured depends on its own probabilities only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fgg.errors import FggError

FIRST_INTERVALS = 4  # between the steps that every image has


@dataclass(frozen=True)
class Curve:
    """The curves of a batch of images.

    Attributes:
        probability: float64 (B, S + 1); straight between measured steps, NaN where the model has no token left.
        measured: bool (B, S + 1), whether the model has read the image at this step.
    """

    probability: Tensor
    measured: Tensor


def check_tolerance(value: Any) -> float | None:
    """The tolerance of an area; None if every step is to be measured, as for 0.

    Raises FggError for anything but None and a number from 0 to below 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < 1:
        raise FggError(
            f"area_tolerance: {value!r} must be a number from 0 to below 1, the error of an area that may come from steps "
            "that are not measured; None measures all"
        )
    return float(value) or None


def adaptive(measure: Callable[[Tensor], Tensor], images: int, steps: int, tolerance: float) -> Curve:
    """Measure as many steps as the area of each image needs.

    Args:
        measure: takes the wanted steps, bool (B, S + 1), and returns probabilities, float64 (B, S + 1), of which those
            of the wanted steps are read; NaN where the model has no token left, which must be an end of the curves.
        images: B.
        steps: S.
        tolerance: of the area over the share of steps, above 0.
    """
    first, last = 0, steps
    wanted = torch.zeros(images, steps + 1, dtype=torch.bool)
    wanted[:, [steps * number // FIRST_INTERVALS for number in range(FIRST_INTERVALS + 1)]] = True
    measured, value = torch.zeros_like(wanted), torch.full(wanted.shape, torch.nan, dtype=torch.float64)
    while wanted.any():
        value = torch.where(wanted, measure(wanted).cpu(), value)
        measured |= wanted
        if value[:, first].isnan().all() and first < last:
            first += 1
        elif value[:, last].isnan().all() and first < last:
            last -= 1
        wanted = torch.zeros_like(wanted)
        wanted[:, [first, last]] = True
        wanted &= ~measured
        if not wanted.any():
            wanted[:, first : last + 1] = _middles(value[:, first : last + 1], measured[:, first : last + 1], tolerance)
    return Curve(straight(value, measured), measured)


def straight(value: Tensor, measured: Tensor) -> Tensor:
    """The probabilities (B, S + 1) with straight lines between the measured ones; NaN where no line goes."""
    known = measured & ~value.isnan()
    left, right = _neighbours(known)
    place = torch.arange(known.shape[1])
    low, high = value.gather(1, left), value.gather(1, right)
    share = (place - left) / (right - left).clamp(min=1)
    return torch.where(known, value, low + (high - low) * share)


def _middles(value: Tensor, measured: Tensor, tolerance: float) -> Tensor:
    """The steps to measure next, bool (B, S + 1): middles of the intervals with the largest possible errors.

    An interval is halved if its error is at least half of the largest, and if halving those with larger errors cannot be
    enough. The ends are measured.
    """
    start, last = torch.arange(measured.shape[1]), measured.shape[1] - 1
    left, right = _neighbours(measured)
    before, after = left[:, (start - 1).clamp(min=0)], right[:, (start + 1).clamp(max=last)]
    beyond = after.gather(1, after)
    near = torch.stack([value, *(value.gather(1, place) for place in (after, before, beyond))])
    middle = (near[0] + near[1]) / 2
    reach = torch.maximum(near.amax(0) - middle, middle - near.amin(0)) / max(last, 1)
    length = after - start
    inner = measured & (length > 1)
    error = torch.where(inner, (length - 1) * reach, 0.0)
    halved = torch.where(inner, ((length + 1) // 2 - 1) * reach, 0.0)
    size, place = error.sort(dim=1, descending=True, stable=True)
    gain = size - halved.gather(1, place)
    left_over = size.sum(1, keepdim=True) - (gain.cumsum(1) - gain)
    chosen = (left_over >= tolerance) & (size > 0) & (2 * size >= size[:, :1])
    images, column = chosen.nonzero(as_tuple=True)
    found = place[images, column]
    middles = torch.zeros_like(measured)
    middles[images, found + length[images, found] // 2] = True
    return middles


def _neighbours(known: Tensor) -> tuple[Tensor, Tensor]:
    """For each step, the last known one up to it and the first known one from it, int64 (B, S + 1).

    Where there is none, the nearest end of the curve stands in.
    """
    places, last = torch.arange(known.shape[1]).expand(known.shape), known.shape[1] - 1
    left = torch.where(known, places, 0).cummax(1).values
    return left, torch.where(known, places, last).flip(1).cummin(1).values.flip(1)
