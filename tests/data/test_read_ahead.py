"""Reading ahead and decoding in threads give the same tensors, and errors where they belong."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch

from fgg.data import load
from fgg.data.load import load_split
from fgg.data.preprocess import Preprocess
from fgg.data.read_ahead import ReadAhead, decoding_threads
from fgg.errors import FggError

CPU = torch.device("cpu")
PREPROCESS = Preprocess(16, channels="dark_lines", mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def split(tiny_dataset):
    return load_split(tiny_dataset / "train.parquet")


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """A prepared split of 37 pictures."""
    import io

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    draw = np.random.default_rng(0)
    rows = []
    for number in range(37):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (20 + number, 24), dtype=np.uint8)).save(file, "png")
        rows.append({"image_id": f"{number:02}", "image": {"bytes": file.getvalue(), "path": None}, "label": number % 2,
                     "label_name": "ab"[number % 2]})  # fmt: skip
    folder = tmp_path_factory.mktemp("ahead")
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet", row_group_size=10, write_page_checksum=True)
    return folder


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_value(split, threads):
    whole = split.tensors(PREPROCESS)
    assert torch.equal(split.tensors(PREPROCESS, threads=threads), whole)
    places = [30, 2, 17, 2]
    assert torch.equal(split.tensors(PREPROCESS, places, threads=threads), whole[places])


def test_the_filters_of_warnings_come_back(split):
    before = list(warnings.filters)
    split.tensors(PREPROCESS, threads=6)
    assert warnings.filters == before


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "batches",
    [
        [(0, 8), (8, 16), (16, 24), (24, 32), (32, 37)],
        [(0, 8), (16, 24), (0, 8), (8, 20)],  # another job took a piece; a batch again, in another size
    ],
)
def test_batches_are_those_of_the_split(split, threads, batches):
    whole, ahead = split.tensors(PREPROCESS), ReadAhead(split, PREPROCESS, CPU, threads)
    for start, stop in batches:
        assert torch.equal(ahead.batch(slice(start, stop)), whole[start:stop])


def test_the_next_batch_is_decoded_while_this_one_is_in_use(split, monkeypatch):
    own, made, done = split.part(slice(None)), [], threading.Event()
    tensors = load.Split.tensors

    def watched(self, preprocess, rows, threads=1):
        found = tensors(self, preprocess, rows, threads=threads)
        if self is own:  # the readers of other tests may still be at work
            made.append((rows.start, rows.stop))
            if rows.start:
                done.set()
        return found

    monkeypatch.setattr(load.Split, "tensors", watched)
    ahead = ReadAhead(own, PREPROCESS, CPU, 2)
    ahead.batch(slice(0, 20))
    assert done.wait(20) and made == [(0, 20), (20, 37)]
    ahead.batch(slice(20, 37))
    assert made == [(0, 20), (20, 37)], "it was there already, and nothing comes after it"


def test_on_the_cpu_nothing_is_decoded_before_it_is_asked_for(split, monkeypatch):
    assert decoding_threads(CPU) == 1
    own, made = split.part(slice(None)), []
    tensors = load.Split.tensors

    def watched(self, preprocess, rows, threads=1):
        made.extend([rows] if self is own else [])
        return tensors(self, preprocess, rows, threads=threads)

    monkeypatch.setattr(load.Split, "tensors", watched)
    ReadAhead(own, PREPROCESS, CPU).batch(slice(0, 5))
    assert made == [slice(0, 5)]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_damaged_image_ends_its_own_batch_only(split, threads, monkeypatch):
    decode = load._decode

    def failing(path, row, column):
        if row["image_id"] == "12":
            raise FggError("image 12 cannot be used")
        return decode(path, row, column)

    monkeypatch.setattr(load, "_decode", failing)
    ahead = ReadAhead(split, PREPROCESS, CPU, threads)
    assert len(ahead.batch(slice(0, 10))) == 10
    with pytest.raises(FggError, match="image 12"):
        ahead.batch(slice(10, 20))
    assert len(ahead.batch(slice(20, 30))) == 10


def test_a_gpu_has_several_threads():
    assert 1 <= decoding_threads(torch.device("cuda")) <= 8
