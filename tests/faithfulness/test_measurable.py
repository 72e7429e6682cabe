"""Which images can be measured: from the model's answers, and read again by what gives verdicts."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from fgg.errors import FggError
from fgg.faithfulness.measurable import COLUMNS, main, measurable_images
from fgg.tables import read_table, write_table

IDS = ["a", "b", "c", "d"]


@pytest.fixture
def place(tmp_path):
    columns = {
        "image_id": IDS,
        "target": [0, 1, 0, 1],
        "probability": np.array([0.9, 0.5, 0.5, 0.1]),
        "filled_probability": np.array([0.2, 0.25, 0.26, 0.6]),
        "filled_probability@removal": np.array([0.9, 0.1, 0.1, 0.1]),
    }
    write_table(tmp_path / "responses.parquet", columns, {"fills": ["mean", "removal"]})
    arguments = ["--responses", str(tmp_path / "responses.parquet"), "--output", str(tmp_path / "images.parquet")]
    assert main([*arguments, "--settings", json.dumps({"least_drop": 0.25})]) == 0
    return tmp_path


def test_a_row_per_image_and_fill(place):
    table = read_table(place / "images.parquet").to_pandas()
    assert list(table.columns) == list(COLUMNS)
    assert table[["image_id", "fill"]].to_numpy().tolist() == [[i, f] for i in IDS for f in ("mean", "removal")]
    own = table[table["fill"] == "mean"]
    assert own["full_drop"].to_numpy() == pytest.approx([0.7, 0.25, 0.24, -0.5])
    assert own["measurable"].tolist() == [True, True, False, False], "0.25 reaches 0.25"
    assert table.loc[table["fill"] == "removal", "measurable"].tolist() == [False, True, True, False]


def test_they_are_found_by_image_id(place):
    assert measurable_images(place, "mean", pd.Index(["d", "a", "b"])).tolist() == [False, True, True]
    assert measurable_images(place, "removal", pd.Index(["c", "a"])).tolist() == [True, False]


def test_a_metric_that_perturbs_nothing_measures_every_image(tmp_path):
    assert measurable_images(tmp_path, "", pd.Index(IDS)).all()


@pytest.mark.parametrize(("fill", "ids", "lacking"), [("blur", IDS, 4), ("mean", ["a", "z"], 1)])
def test_a_table_that_lacks_images_is_refused(place, fill, ids, lacking):
    with pytest.raises(FggError, match=f"images.parquet lacks {lacking} images with the fill {fill}; delete it"):
        measurable_images(place, fill, pd.Index(ids))
