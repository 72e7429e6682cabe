"""Residuals of a split's images, from a buffer of bounded size: what SAEs are trained on.

The buffer holds the residuals of some images. If it has room for all of them, they are computed once. If not, or if the
images are augmented, every epoch draws the images anew, in blocks from all over the file, fills the buffer with as many
as fit, serves their rows in random order, and fills it again.

sae-lens has an activation store and a mixing buffer. The store reads texts with a language model. The mixing buffer draws
from PyTorch's global generator, copies the whole buffer whenever rows are added, and cannot resume: its rows are lost with
the process. Here, batch number n depends on nothing but the seed and n, so a killed training goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.data.load import load_split
from fgg.data.preprocess import Preprocess
from fgg.data.read_ahead import decoding_threads
from fgg.errors import FggError
from fgg.models.capture import at_rest
from fgg.models.device import images_per_batch
from fgg.models.training import augment
from fgg.models.vit import check_images
from fgg.progress import batches

BUFFER_FLOATS = 2**26  # 256 MiB
BLOCKS = 16  # in one filling of the buffer; images of a block are neighbours in the file


class Rows(Protocol):
    """Residuals to learn from: their width, their device, and endless shuffled batches of them."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def device(self) -> torch.device:
        """Where the rows are."""

    def __len__(self) -> int:
        """Number of rows in an epoch."""

    def first(self) -> Tensor:
        """The rows of the first filling of the buffer, (n, D)."""

    def shuffled(self, batch: int, seed: int, start: int = 0) -> Iterator[Tensor]:
        """Endless batches of ``batch`` rows, from batch number ``start`` on."""


class InMemory:
    """Rows (n, D) that are there already."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self.width, self.device = rows.shape[1], rows.device

    def __len__(self) -> int:
        return len(self._rows)

    def first(self) -> Tensor:
        """All rows."""
        return self._rows

    def shuffled(self, batch: int, seed: int, start: int = 0) -> Iterator[Tensor]:
        """Batches in a new order in each epoch; an incomplete last batch is left out."""
        generator = torch.Generator().manual_seed(seed)
        number = 0
        while True:
            for index in _indices(len(self._rows), batch, generator):
                if number >= start:
                    yield self._rows[index.to(self.device)]
                number += 1


class Residuals:
    """Residuals at the end of a layer, float32.

    Args:
        model, preprocess: the model, and what makes its inputs.
        images: a prepared split.
        layer: the block.
        device: where the model is.
        seed: of the images' order, of augmentation, and of the subset if ``max_images`` is given.
        prefix: whether the rows of class and register tokens belong to them, or those of patches only.
        augmentation: ``flips``, ``shift`` (pixels) and ``contrast`` as in `fgg.models.training.augment`; None for none.
        floats: size of the buffer; in any case the images of a pass fit.
        max_images: size of a class-stratified subset; None takes all.
        batch: images in a pass of the model; None takes what suits the model.
    """

    def __init__(
        self,
        model: VisionTransformer,
        preprocess: Preprocess,
        images: Path,
        layer: int,
        device: torch.device,
        seed: int,
        *,
        prefix: bool = False,
        augmentation: Mapping[str, Any] | None = None,
        floats: int = BUFFER_FLOATS,
        max_images: int | None = None,
        batch: int | None = None,
    ) -> None:
        self._model, self._preprocess, self._layer = model, preprocess, layer
        self._split = load_split(images, max_images, seed)
        self._skipped = 0 if prefix else model.num_prefix_tokens
        self._tokens = model.patch_embed.num_patches + model.num_prefix_tokens - self._skipped
        self._augmentation, self._seed = augmentation, seed
        self.width, self.device = model.embed_dim, device
        self._at_once = images_per_batch(model, batch)
        self._room = min(len(self._split), max(self._at_once, floats // (self._tokens * self.width)))
        self._whole: Tensor | None = None
        self._buffer: Tensor | None = None

    def __len__(self) -> int:
        return len(self._split) * self._tokens

    @property
    def fits(self) -> bool:
        """Whether the buffer holds all images."""
        return self._room == len(self._split)

    def first(self) -> Tensor:
        """The rows of as many images as fit in the buffer, without augmentation; all of them if they fit."""
        if self.fits:
            return self._all()
        return self._fill(self._order(torch.Generator().manual_seed(self._seed))[: self._room], None)

    def parts(self) -> Iterator[Tensor]:
        """All rows in the order of the file, without augmentation, a buffer at a time; valid until the next one."""
        if self.fits:
            yield self._all()
            return
        for part in self._pieces(np.arange(len(self._split))):
            yield self._fill(part, None)

    def shuffled(self, batch: int, seed: int, start: int = 0) -> Iterator[Tensor]:
        """Batches in a new order in each epoch; the incomplete last batch of each filling of the buffer is left out.

        Raises:
            FggError: a batch needs more rows than the buffer holds.
        """
        if self.fits and self._augmentation is None:
            yield from InMemory(self._all()).shuffled(batch, seed, start)
            return
        if batch > self._room * self._tokens:
            raise FggError(
                f"sae.train.batch_size: {batch} tokens are more than the {self._room * self._tokens} that the buffer holds; "
                "make sae.train.buffer_tokens larger, or the batches smaller"
            )
        generator = torch.Generator().manual_seed(seed)
        number = 0
        while True:
            for part in self._pieces(self._order(generator)):
                draw, rows = int(torch.randint(2**62, (), generator=generator)), None
                for index in _indices(len(part) * self._tokens, batch, generator):
                    if number >= start:
                        rows = self._fill(part, draw) if rows is None else rows
                        yield rows[index.to(self.device)]
                    number += 1

    def _pieces(self, places: np.ndarray) -> list[np.ndarray]:
        """Places divided into fillings of the buffer."""
        return np.split(places, range(self._room, len(places), self._room))

    def _order(self, generator: torch.Generator) -> np.ndarray:
        """Places of all images, in random order of blocks."""
        if self.fits:
            return np.arange(len(self._split))
        length = max(1, self._room // BLOCKS)
        blocks = np.array_split(np.arange(len(self._split)), math.ceil(len(self._split) / length))
        return np.concatenate([blocks[each] for each in torch.randperm(len(blocks), generator=generator).tolist()])

    def _all(self) -> Tensor:
        if self._whole is None:
            self._whole = self._fill(np.arange(len(self._split)), None)
            self._buffer = None  # a later filling must not overwrite them
        return self._whole

    def _fill(self, places: np.ndarray, draw: int | None) -> Tensor:
        """The rows of some images, in the buffer; augmented with the seed ``draw`` if there is an augmentation."""
        if self._buffer is None:
            self._buffer = torch.empty(self._room * self._tokens, self.width, device=self.device)
        generator = torch.Generator().manual_seed(draw) if self._augmentation and draw is not None else None
        done = 0
        for part in batches(len(places), self._at_once, f"residuals of layer {self._layer}"):
            found = self._of(places[part], generator).flatten(0, 1)
            self._buffer[done : done + len(found)] = found
            done += len(found)
        return self._buffer[:done]

    def _of(self, places: np.ndarray, generator: torch.Generator | None) -> Tensor:
        order = np.argsort(places, kind="stable")  # the file is read from its beginning to its end
        images = self._split.tensors(self._preprocess, places[order], threads=decoding_threads(self.device))
        if generator is not None and self._augmentation is not None:
            images = augment(images, self._augmentation, generator)
        return residual(self._model, images.to(self.device), self._layer)[:, self._skipped :]


def residual(model: VisionTransformer, images: Tensor, layer: int) -> Tensor:
    """The residual stream (B, T, D) at the end of a layer; the blocks after it do not run.

    Raises:
        FggError: the images do not fit the model, or the residuals are not finite.
    """
    check_images(model, images)
    found: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        found.append(output)
        raise _Reached

    handle = model.blocks[layer].register_forward_hook(keep)
    try:
        # PyTorch's own passes: a training carries last bits on, and a faster pass would make other SAEs.
        with at_rest(model, fast=False), torch.no_grad():
            model(images)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not found[0].isfinite().all():
        raise FggError(
            f"the residual stream after layer {layer} is not finite for some images; check the model's weights"
        )
    return found[0].float()


class _Reached(Exception):
    """The layer that was asked for has run."""


def _indices(length: int, batch: int, generator: torch.Generator) -> Sequence[Tensor]:
    """Whole batches of places in random order."""
    return (
        torch.randperm(length, generator=generator)[: length // batch * batch].split(batch) if length >= batch else ()
    )
