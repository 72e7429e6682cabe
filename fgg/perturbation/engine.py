"""The perturbation engine: logits of many versions of an image whose patches are filled, replaced or removed.

If the model's patch embedding allows it, masks are applied to tokens instead of pixels, which is many times faster and
gives the same numbers (`fgg.perturbation.token_path`). Other models, and fills that depend on the mask, take the pixel
path.

Symbols: B images, V versions of each, N patches, K classes.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.errors import FggError
from fgg.models.call_arguments import plain
from fgg.models.capture import at_rest
from fgg.models.device import ROWS, fitting, halved, rows_per_batch
from fgg.models.finite_logits import check_finite
from fgg.models.onednn_linear import Kept, low_precision, reordered_weights
from fgg.models.vit import check_images, patch_size
from fgg.perturbation.compiled import MOST_ROWS, in_one_shape
from fgg.perturbation.fills import Fill, impute
from fgg.perturbation.known_rows import KnownRows, independent
from fgg.perturbation.known_rows import names as names_of
from fgg.perturbation.one_map import OneMap
from fgg.perturbation.passes import Passes
from fgg.perturbation.token_path import Tokens, allows_tokens

MOST_REMEMBERED = 2**26  # number of logits that an engine keeps
NAME = 64  # what the name of a version takes in memory, in logits
_independent: weakref.WeakKeyDictionary[VisionTransformer, dict[tuple, bool]] = weakref.WeakKeyDictionary()


class Perturber:
    """A batch of images that gives the logits of its perturbed versions.

    Args:
        model: a timm VisionTransformer; it is not changed.
        images: normalised float (B, C, H, W).
        rows: perturbed images per forward pass; None chooses a number from the model and the device.
        path: ``tokens``, ``pixels``, or None for the faster one that the model allows.
        compiled: whether passes run through `torch.compile`, except those of removal, whose tokens are of any number.

    Attributes:
        fill: what replaces a patch in `logits`; None fills with the mean over channels and pixels.
        passes: counts of the versions that `logits` was asked for with this fill; engines made from this one share it.

    Raises:
        FggError: the images do not fit the model, or ``path="tokens"`` for a model that does not allow it.
    """

    def __init__(
        self,
        model: VisionTransformer,
        images: Tensor,
        rows: int | None = None,
        path: str | None = None,
        compiled: bool = False,
    ) -> None:
        check_images(model, images)
        self.model = model
        self.images = plain(images)
        most = rows_per_batch(model, images.device)
        self.rows = rows or fitting(min(most, MOST_ROWS) if compiled else most, ROWS, model)
        self.grid = tuple(size // patch for size, patch in zip(images.shape[2:], patch_size(model), strict=True))
        self.patches = self.grid[0] * self.grid[1]
        if path not in (None, "tokens", "pixels"):
            raise FggError(f"path {path!r} is unknown; choose 'tokens' or 'pixels', or None for the faster one")
        if path == "tokens" and not allows_tokens(model):
            raise FggError("the patch embedding of this model does not allow the token path; use the pixel path")
        self.compiled = compiled
        self.path = path or ("tokens" if allows_tokens(model) else "pixels")
        self.mean = self.images.float().mean((1, 2, 3))
        self.fill: Fill | None = None
        self.passes = Passes()
        self._memory: dict[tuple[str, bytes], Tensor] = {}
        self._map: OneMap | None = None
        self._known: dict[Fill, KnownRows] = {}  # for engines whose rows are independent
        self._weights: Kept = {}
        with self._evaluating():
            self._tokens = Tokens(model, self.images, exact=True) if self.path == "tokens" else None
            self._removable: Tokens | None = self._tokens
            none = torch.zeros(len(images), 1, self.patches, dtype=torch.bool, device=images.device)
        self.clean = self.logits(none)[:, 0]

    def using(self, fill: Fill) -> Perturber:
        """The same engine with another fill; what was computed from the clean images is shared."""
        other = copy.copy(self)
        other.fill = fill
        return other

    def for_one_map(self) -> Perturber:
        """The same engine for all questions about a batch of maps: it computes a version that several contain once.

        Where the rows of a pass are independent of one another (`fgg.perturbation.known_rows`), so it does for a version
        that other maps of the images contain. Elsewhere, what an answer is in its last bits depends on the earlier
        questions about the same maps, and on nothing else.
        """
        other = copy.copy(self)
        other._map = OneMap(self.passes)
        return other

    def logits(self, masks: Tensor, fill: Tensor | None = None) -> Tensor:
        """Logits of the versions. Repeated calls with equal arguments return stored, bitwise equal logits.

        Args:
            masks: bool (B, V, N), True where a patch is filled.
            fill: (B,) one value per image, or (B, N) one per patch, in normalised units; None takes the
                engine's own fill, or if it has none, the mean over all channels and pixels of the clean image.

        Returns:
            float32 (B, V, K). NaN where the fill is removal and no token is left that the head reads.

        Raises:
            FggError: masks of the wrong shape, logits that are not finite, or the GPU memory is too small for one row.
        """
        if fill is not None or self.fill is None:
            return self._answered(masks, fill)
        packed = np.packbits(masks.cpu().numpy(), axis=-1)
        if self._map is None or not masks.shape[1]:
            return self._remembered(masks, packed)
        if self._independent():
            owners = np.repeat(np.arange(len(masks)), masks.shape[1])
            return self._by_rows(masks.flatten(0, 1), packed, owners, whole=masks).view(*masks.shape[:2], -1)
        return self._map.by_versions(packed, lambda chosen: self._remembered(masks[:, chosen], packed[:, chosen]))

    def single_logits(self, images: Tensor, masks: Tensor) -> Tensor:
        """Logits of one version of each named image, with the engine's own fill; an image may be named several times.

        Args:
            images: their numbers, int64 (R,).
            masks: bool (R, N), True where a patch is filled.

        Returns:
            float32 (R, K), as `logits` gives them.
        """
        packed = np.packbits(masks[:, None].cpu().numpy(), axis=-1)
        if self.fill is not None and self._map is not None and len(masks) and self._independent():
            return self._by_rows(masks, packed, images.cpu().numpy())
        return self._remembered(masks[:, None], packed, images)[:, 0]

    def _independent(self) -> bool:
        """Whether a row's logits are the same in any pass; tried out once for each model and kind of fill, on a CPU only."""
        if self.images.device.type != "cpu" or self.fill is None or not len(self.images):
            return False
        own = _independent.setdefault(self.model, {})
        place = self.fill.kind, self.rows, self.path, self.compiled, low_precision()
        if place not in own:
            # PyTorch's attention of few tokens depends on where a head of another width begins in memory.
            odd = getattr(getattr(self.model.blocks[0], "attn", None), "head_dim", 1) % 4
            own[place] = not (self.fill.kind == "imputation" or (odd and self.fill.kind == "removal")) and independent(
                lambda masks, owners: self._answered(masks, None, owners),
                *(len(self.images), self.patches, self.rows),
                removal=self.fill.kind == "removal",
            )
        return own[place]

    def _by_rows(self, masks: Tensor, packed: np.ndarray, owners: np.ndarray, whole: Tensor | None = None) -> Tensor:
        """Logits (n, K) of versions (n, N) of the images with the numbers (n,); those that are known are not computed.

        Args:
            packed: the bits of the masks.
            whole: the same masks as (B, V, N), if they are those of all images.
        """
        assert self.fill is not None and self._map is not None
        known = self._known.setdefault(self.fill, KnownRows())
        if len(known) * max(self.model.num_classes, NAME) > MOST_REMEMBERED:
            known = self._known[self.fill] = KnownRows()

        def compute(places: list[int]) -> Tensor:
            chosen = torch.tensor(places, device=masks.device)
            self._count(masks[chosen])
            if whole is not None and len(places) == len(masks):
                return self._answered(whole, None).flatten(0, 1)
            return self._answered(masks[chosen][:, None], None, torch.from_numpy(owners).to(masks.device)[chosen])[:, 0]

        return self._map.by_rows(names_of(owners, packed.reshape(len(masks), packed.shape[-1])), known, compute)

    def _count(self, masks: Tensor) -> None:
        """Count versions (…, N) that are computed."""
        versions, tokens = masks[..., 0].numel(), self.patches + self.model.num_prefix_tokens
        removal = self.fill is not None and self.fill.kind == "removal"
        self.passes.add(versions, versions * tokens, int(masks.sum()) if removal else 0)

    def _remembered(self, masks: Tensor, packed: np.ndarray, owners: Tensor | None = None) -> Tensor:
        """Logits of masks, computed unless the same question was asked before.

        Args:
            packed: the bits of the masks.
            owners: the images' numbers, if they are not those of the masks.
        """
        text = packed.tobytes() + str(tuple(masks.shape)).encode()
        text += b"" if owners is None else owners.cpu().numpy().tobytes()
        question = "" if self.fill is None else self.fill.name, hashlib.sha256(text).digest()
        if question in self._memory:
            self.passes.remembered += masks.shape[0] * masks.shape[1]
            return self._memory[question]
        if sum(known.numel() for known in self._memory.values()) > MOST_REMEMBERED:
            self._memory.clear()
        self._memory[question] = self._answered(masks, None, owners)
        self._count(masks)
        return self._memory[question]

    def _answered(self, masks: Tensor, fill: Tensor | None, owners: Tensor | None = None) -> Tensor:
        while True:
            try:
                return self._logits(masks, fill, owners)
            except torch.OutOfMemoryError:
                self.rows = halved(self.rows, ROWS, self.model)

    def _logits(self, masks: Tensor, fill: Tensor | None, owners: Tensor | None = None) -> Tensor:
        batch, versions, patches = masks.shape
        if (owners is None and batch != len(self.images)) or patches != self.patches:
            expected = f"({len(self.images)}, V, {self.patches})"
            raise FggError(f"masks are {tuple(masks.shape)}, expected {expected}")
        kind = "value" if fill is not None or self.fill is None else self.fill.kind
        values = self._values(fill)
        out = None
        with self._evaluating():
            if kind in ("value", "image") and self._tokens is not None and versions and masks.any():
                self._tokens.exchange(values) if kind == "image" else self._tokens.fill(values)
            if kind == "removal" and batch:
                out = self._removal_tokens().without(masks, self.rows, owners)
            for rows, chosen in self._plan(batch, versions) if out is None else ():
                part, images = masks[rows, chosen], rows if owners is None else owners[rows]
                if kind != "imputation" and self._tokens is not None:
                    logits = self._tokens.forward(images, part, self.rows if self.compiled else None)
                else:
                    logits = self._pixels(images, part, kind, values)
                if out is None:
                    out = logits.new_empty(batch, versions, logits.shape[-1], dtype=torch.float32)
                out[rows, chosen] = logits.view(*part.shape[:2], -1).float()
        if out is None:
            return self.images.new_empty(batch, versions, self.model.num_classes, dtype=torch.float32)
        undefined = masks.all(-1) if kind == "removal" else masks.new_zeros(())
        if not (out.isfinite().all(-1) | undefined).all():
            with self._evaluating():
                images = self.images if owners is None else self.images[owners]
                check_finite(self.model, images, out.masked_fill(undefined.expand(out.shape[:2])[..., None], 0.0))
        return out

    def _removal_tokens(self) -> Tokens:
        if self._removable is None:
            self._removable = Tokens(self.model, self.images, exact=False)
        return self._removable

    def _values(self, fill: Tensor | None) -> Tensor:
        """What replaces a patch: (B, N) values, or (B, C, H, W) images."""
        if fill is None and self.fill is not None and self.fill.values is not None:
            fill = self.fill.values
        fill = self.mean if fill is None else fill
        return fill[:, None].expand(-1, self.patches) if fill.ndim == 1 else fill

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        # torch.compile chooses the products itself.
        with at_rest(self.model, fast=not self.compiled), torch.inference_mode(), reordered_weights(self._weights):
            yield

    def _plan(self, batch: int, versions: int) -> Iterator[tuple[slice, slice]]:
        """Rectangles of images x versions of about `rows` rows."""
        together = max(1, self.rows // max(versions, 1))
        pieces = max(1, -(-versions // self.rows))
        length = max(1, -(-versions // pieces))
        for first in range(0, batch, together):
            for start in range(0, versions, length):
                yield slice(first, min(first + together, batch)), slice(start, min(start + length, versions))

    def _pixels(self, images: slice | Tensor, masks: Tensor, kind: str, values: Tensor) -> Tensor:
        pixels = self.images[images]
        height, width = patch_size(self.model)

        def spread(of_patches: Tensor) -> Tensor:
            rows = of_patches.unflatten(-1, self.grid).repeat_interleave(height, -2)
            return rows.repeat_interleave(width, -1)

        if kind == "imputation":
            noise = self.fill.noise[images] if self.fill else None
            return self._whole(impute(pixels, spread(masks), noise).flatten(0, 1))
        own = values[images].to(pixels.dtype)
        filled = own[:, None] if kind == "image" else spread(own)[:, None, None]
        versions = torch.where(spread(masks)[:, :, None], filled, pixels[:, None])
        return self._whole(versions.flatten(0, 1))

    def _whole(self, pixels: Tensor) -> Tensor:
        return in_one_shape(from_pixels, self.model, pixels, self.rows) if self.compiled else self.model(pixels)


def from_pixels(model: VisionTransformer, pixels: Tensor) -> Tensor:
    """Logits (n, K) of images (n, C, H, W)."""
    return model(pixels)
