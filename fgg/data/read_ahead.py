"""Batches of images for a device: on a GPU, threads decode the next batch while it works on the current one."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from fgg.data.load import Split
from fgg.data.preprocess import Preprocess

MOST_THREADS = 8


def decoding_threads(device: torch.device) -> int:
    """The number of threads that decode images for a device: one for the CPU; the cores, at most `MOST_THREADS`, for a GPU."""
    return min(MOST_THREADS, len(os.sched_getaffinity(0))) if device.type == "cuda" else 1


class ReadAhead:
    """Model inputs of consecutive batches of a split, on a device.

    On the CPU, each batch is decoded when it is asked for: other jobs use the other cores. On a GPU, several threads decode a
    batch, and those of the batch that would come next start at once. Its copy to the GPU does not wait. The tensors are the
    same in both cases.

    Args:
        split: the images.
        preprocess: what makes an input of an image.
        device: where the inputs go.
        threads: number of decoding threads; None for `decoding_threads`. More than one read ahead.
    """

    def __init__(self, split: Split, preprocess: Preprocess, device: torch.device, threads: int | None = None) -> None:
        on_gpu = device.type == "cuda"
        self._split, self._preprocess, self._device = split, preprocess, device
        self._threads = threads or decoding_threads(device)
        self._pinned = on_gpu
        self._coming: tuple[slice, Future[Tensor]] | None = None
        self._reader = ThreadPoolExecutor(1, "read-ahead") if self._threads > 1 else None

    def batch(self, rows: slice) -> Tensor:
        """The inputs (n, C, H, W) of some images, ``rows.start`` to ``rows.stop``, on the device.

        Raises:
            FggError: as `Split.tensors`, for an image of this batch.
        """
        if self._reader is None:
            return self._split.tensors(self._preprocess, rows).to(self._device)
        coming, self._coming = self._coming, None
        found = coming[1] if coming is not None and coming[0] == rows else self._reader.submit(self._read, rows)
        after = slice(rows.stop, min(2 * rows.stop - rows.start, len(self._split)))
        inputs = found.result()
        if after.start < after.stop:
            self._coming = after, self._reader.submit(self._read, after)
        return inputs.to(self._device, non_blocking=self._pinned)

    def _read(self, rows: slice) -> Tensor:
        inputs = self._split.tensors(self._preprocess, rows, threads=self._threads)
        return inputs.pin_memory() if self._pinned else inputs
