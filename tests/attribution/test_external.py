"""Maps that are given: every form that is read, and everything that is refused, by name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgg.attribution.external import read_maps
from fgg.errors import FggError

IDS = [f"image{n}" for n in range(6)]
RANDOM = np.random.default_rng(0)
PATCHES = RANDOM.normal(size=(6, 16)).astype(np.float32)
PIXELS = RANDOM.normal(size=(6, 32, 32)).astype(np.float32)
COLOURS = RANDOM.normal(size=(6, 3, 32, 32)).astype(np.float32)
SUMMED = PIXELS.reshape(6, 4, 8, 4, 8).sum((2, 4)).reshape(6, 16)
SUMMED_COLOURS = COLOURS.sum(1).reshape(6, 4, 8, 4, 8).sum((2, 4)).reshape(6, 16)


def parquet(path, ids, rows):
    pq.write_table(pa.table({"image_id": ids, "relevance": rows}), path)
    return path


def npz(path, ids, rows):
    np.savez(path, image_id=np.array(ids), relevance=rows)
    return path


def refusal(path, model):
    with pytest.raises(FggError) as error:
        read_maps(path, IDS, model)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (list(PATCHES), PATCHES),
        (pa.FixedSizeListArray.from_arrays(pa.array(PATCHES.ravel()), 16), PATCHES),
        ([own.astype(np.float64).tolist() for own in PATCHES], PATCHES),
        (list(PIXELS.reshape(6, -1)), SUMMED),
        ([own.tolist() for own in PIXELS], SUMMED),
        ([own.tolist() for own in COLOURS], SUMMED_COLOURS),
        ([np.arange(16).tolist() for _ in IDS], np.tile(np.arange(16), (6, 1))),
    ],
    ids=["patches", "fixed lists", "float64", "flat pixels", "pixels", "channels", "whole numbers"],
)
def test_parquet_in_every_form(plain, tmp_path, rows, expected):
    found = read_maps(parquet(tmp_path / "m.parquet", IDS, rows), IDS, plain)
    np.testing.assert_allclose(found.relevance(IDS, 16), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.relevance(IDS[3:1:-1], 16), expected[3:1:-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(PATCHES, PATCHES), (PIXELS, SUMMED), (COLOURS, SUMMED_COLOURS)],
    ids=["patches", "pixels", "channels"],
)
def test_npz_in_every_form(plain, tmp_path, rows, expected):
    shuffled = RANDOM.permutation(6)
    found = read_maps(npz(tmp_path / "m.npz", np.array(IDS)[shuffled], rows[shuffled]), IDS, plain)
    np.testing.assert_allclose(found.relevance(IDS, 16), expected, rtol=1e-5, atol=1e-5)


def test_undefined_maps_stay_undefined(plain, tmp_path):
    rows = PATCHES.copy()
    rows[2, 5] = np.nan
    found = read_maps(npz(tmp_path / "m.npz", IDS, rows), IDS, plain).relevance(IDS, 16)
    assert found.isnan().sum() == 1 and found[2, 5].isnan()


def test_images_that_are_missing_surplus_or_there_twice_are_named(plain, tmp_path):
    assert "maps are missing for image1, image4" in refusal(
        parquet(tmp_path / "a.parquet", [IDS[n] for n in (0, 2, 3, 5)], list(PATCHES[:4])), plain
    )
    more = parquet(tmp_path / "b.parquet", [*IDS, "stranger"], [*PATCHES, PATCHES[0]])
    assert "images that are not explained: stranger; leave them out" in refusal(more, plain)
    twice = parquet(tmp_path / "c.parquet", [*IDS, "image3"], [*PATCHES, PATCHES[0]])
    assert "maps are there twice for image3" in refusal(twice, plain)
    many = [f"other{n}" for n in range(9)]
    text = refusal(parquet(tmp_path / "d.parquet", many, [PATCHES[0]] * 9), plain)
    assert (
        "missing for image0, image1, image2, image3, image4 and 1 more images" in text and "and 4 more images" in text
    )


def test_maps_of_another_size_or_without_numbers_are_named(plain, tmp_path):
    wrong = parquet(tmp_path / "a.parquet", IDS, [*PATCHES[:4], PATCHES[4, :15], PATCHES[5]])
    assert "maps must have 16 values, or 32 x 32, not as for image4 (15,)" in refusal(wrong, plain)
    assert "image0 (64, 64)" in refusal(npz(tmp_path / "b.npz", IDS, np.ones((6, 64, 64))), plain)
    rows = PATCHES.copy()
    rows[1, 0] = np.inf
    assert "infinite values for image1" in refusal(npz(tmp_path / "c.npz", IDS, rows), plain)
    assert "the map of image0 is no array of numbers" in refusal(
        parquet(tmp_path / "d.parquet", IDS, [["a"] * 16] * 6), plain
    )
    assert "the map of image0 is no array of numbers" in refusal(npz(tmp_path / "e.npz", IDS, PATCHES * 1j), plain)
    ragged = parquet(tmp_path / "f.parquet", IDS, [[[1.0, 2.0], [3.0]]] * 6)
    assert "the map of image0 is no array of numbers" in refusal(ragged, plain)


def test_files_that_are_no_maps_are_refused(plain, tmp_path):
    assert "does not exist; a map file is Parquet" in refusal(tmp_path / "none.parquet", plain)
    (tmp_path / "text.parquet").write_text("no table")
    assert "cannot be read" in refusal(tmp_path / "text.parquet", plain)
    (tmp_path / "text.npz").write_text("no arrays")
    assert "cannot be read" in refusal(tmp_path / "text.npz", plain)
    pq.write_table(pa.table({"id": IDS, "map": list(PATCHES)}), tmp_path / "names.parquet")
    assert "it lacks the column image_id, relevance" in refusal(tmp_path / "names.parquet", plain)
    np.savez(tmp_path / "names.npz", ids=np.array(IDS), maps=PATCHES)
    assert "it holds the arrays ids, maps" in refusal(tmp_path / "names.npz", plain)
    np.savez(tmp_path / "short.npz", image_id=np.array(IDS[:2]), relevance=PATCHES)
    assert "image_id has (2,), relevance (6, 16)" in refusal(tmp_path / "short.npz", plain)
    whole = npz(tmp_path / "whole.npz", IDS, PATCHES).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(tmp_path / "cut.npz", plain)


def test_no_code_in_a_file_is_run(plain, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.savez(tmp_path / "trap.npz", image_id=np.array(IDS), relevance=np.array([Trap()] * 6, dtype=object))
    assert "cannot be read" in refusal(tmp_path / "trap.npz", plain)
    assert not (tmp_path / "sprung").exists()
