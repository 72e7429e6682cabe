"""The probabilities of a batch of maps that were measured while patches were filled, whichever curve asked for them."""

from __future__ import annotations

import torch
from torch import Tensor

from fgg.faithfulness.adaptive_curves import Curve, adaptive, straight
from fgg.faithfulness.checks import probability
from fgg.perturbation.engine import Perturber

ORDERS = ("mif", "lif")


class MeasuredSteps:
    """Probabilities by order of filling and number of filled patches.

    All curves of a map are made of these: its insertion curve is LIF backwards, and the curves of several step sizes
    have steps in common.

    Args:
        engine: an engine of the images, with the fill.
        order: the patches, most relevant first, int64 (B, N).
        target: class whose probability is read, int64 (B,).
    """

    def __init__(self, engine: Perturber, order: Tensor, target: Tensor) -> None:
        self._engine, self._target = engine, target
        self._rank = order.argsort(dim=1)  # place of each patch in MIF
        self._skipped: dict[tuple[str, int], int] = {}  # of the curves so far, by kind and patches per step
        shape = len(order), engine.patches + 1
        clean = probability(engine.clean[:, None], target).cpu()
        # order of filling -> float64 (B, N + 1), and which of them are measured
        self._value = {name: torch.full(shape, torch.nan, dtype=torch.float64) for name in ORDERS}
        self._measured = {name: torch.zeros(shape, dtype=torch.bool) for name in ORDERS}
        for name in ORDERS:
            self._store(name, torch.tensor([0]), clean)

    def follow(self, kind: str, patches_per_step: int, tolerance: float) -> Curve:
        """The steps of a curve that its area needs (`adaptive`)."""
        order, counts = self._grid(kind, patches_per_step)
        passes, images = self._engine.passes, len(self._rank)
        before = passes.asked

        def measure(wanted: Tensor) -> Tensor:
            everywhere = torch.zeros_like(self._measured[order])
            everywhere[:, counts] = wanted
            self._ask(order, everywhere)
            return self._value[order][:, counts]

        curve = adaptive(measure, images, len(counts) - 1, tolerance)
        new = passes.asked - before
        name = kind, patches_per_step
        if name in self._skipped:  # another tolerance has left fewer steps to skip
            passes.skipped -= new
            self._skipped[name] -= new
        else:
            self._skipped[name] = int((~curve.measured).sum())
            passes.skipped += self._skipped[name]
            passes.repeated += int(curve.measured.sum()) - images - new  # the clean images are never asked for
        return curve

    def keep(self, kind: str, patches_per_step: int, curve: Tensor) -> None:
        """Keep the steps of a curve that was measured as a whole, float64 (B, S + 1)."""
        order, counts = self._grid(kind, patches_per_step)
        self._store(order, counts, curve.cpu())
        self._engine.passes.skipped -= self._skipped.get((kind, patches_per_step), 0)
        self._skipped[kind, patches_per_step] = 0

    def curve(self, kind: str, patches_per_step: int) -> Curve:
        """A curve with all its steps that are measured so far."""
        order, counts = self._grid(kind, patches_per_step)
        value, measured = self._value[order][:, counts], self._measured[order][:, counts]
        return Curve(straight(value, measured), measured)

    def _grid(self, kind: str, patches_per_step: int) -> tuple[str, Tensor]:
        """The order in which a curve fills patches, and how many are filled at each step, int64 (S + 1,)."""
        order, patches = "mif" if kind == "mif" else "lif", self._engine.patches
        counts = torch.tensor([*range(0, patches, patches_per_step), patches])
        return order, patches - counts if kind == "insertion" else counts

    def _ask(self, order: str, wanted: Tensor) -> None:
        """Measure the wanted steps (B, N + 1) that are not known."""
        missing = wanted & ~self._measured[order]
        images, filled = missing.nonzero(as_tuple=True)
        if not len(images):
            return
        device = self._rank.device
        owners, number = images.to(device), filled.to(device)[:, None]
        rank, patches = self._rank[owners], self._engine.patches
        masks = rank < number if order == "mif" else rank >= patches - number
        logits = self._engine.single_logits(owners, masks)
        found = probability(logits[:, None], self._target[owners])[:, 0]
        self._store(order, (images, filled), found.cpu())

    def _store(self, order: str, where: tuple[Tensor, Tensor] | Tensor, value: Tensor) -> None:
        """Keep probabilities of images and counts, or of all images at some counts."""
        index = where if isinstance(where, tuple) else (slice(None), where)
        self._value[order][index] = value
        self._measured[order][index] = True
        for name in ORDERS:  # with all patches filled, no order is left
            self._value[name][:, -1] = self._value[order][:, -1]
            self._measured[name][:, -1] = self._measured[order][:, -1]
