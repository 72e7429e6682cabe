"""Results are read back as frames; what is not there is named; a damaged table is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import fgg
from fgg.tables import write_csv, write_json, write_table


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A results folder with two datasets, one of them with a seed, as a run in its folder writes it."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "results"
    rows = [
        {"dataset": "a", "experiment": name, "metric": "saco", "stratum": stratum, "mean": 0.5, "verdict": "=better"}
        for name in ("transmm", "<b>random")
        for stratum in ("measurable", "all")
    ]
    write_csv(place / "summary.csv", pd.DataFrame(rows))
    write_csv(place / "hypotheses.csv", pd.DataFrame({"dataset": ["a"], "verdict": ["no difference shown"]}))
    for dataset in ("a", "b/seed-1"):
        for kind in ("faithfulness", "attributions"):
            write_table(place / dataset / kind / "transmm.parquet", {"image_id": ["x"], "v": np.ones((1, 4))}, {})
        write_table(place / dataset / "images.parquet", {"image_id": ["x"]}, {})
    write_json(place / "manifest.json", {"configuration": {"seed": 0}}, {})
    return place


def test_tables_and_experiments_are_found(folder):
    results = fgg.read_results(folder)
    assert results.tables == ("summary", "hypotheses")
    assert results.experiments == {"a": ("transmm",), "b/seed-1": ("transmm",)}
    assert list(results.to_dataframe()["verdict"]) == ["=better"] * 4, "as they were, not as a spreadsheet gets them"
    assert results.table("hypotheses")["verdict"][0] == "no difference shown"
    assert results.per_image("attributions", "b/seed-1", "transmm")["v"][0].shape == (4,)
    assert list(results.per_image("images", "a")["image_id"]) == ["x"]
    assert results.manifest["configuration"] == {"seed": 0}
    assert fgg.read_results(str(folder.parent)).folder == folder, "the folder of the run will do"


def test_it_is_shown_in_short(folder):
    results = fgg.read_results(folder)
    assert (
        repr(results)
        == f"Results({str(folder)!r}: a (1 experiments), b/seed-1 (1 experiments); tables summary, hypotheses)"
    )
    html = results._repr_html_()
    assert html.count("<tr") == 3 and "&lt;b&gt;random" in html and "<b>random" not in html


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda results: results.table("sumary"), "no table 'sumary'; it has summary, hypotheses"),
        (lambda results: results.per_image("faithfulness", "c", "transmm"), "no dataset 'c'; it has a, b/seed-1"),
        (lambda results: results.per_image("faithfulness", "a", "rise"), "no experiment 'rise'; it has transmm"),
        (
            lambda results: results.per_image("faithfulness", "a"),
            "choose attributions, gates, faithfulness, curves of an",
        ),
        (lambda results: results.per_image("maps", "a", "transmm"), "'maps' with experiment 'transmm'"),
        (lambda results: results.per_image("gates", "a", "transmm"), "does not exist; this experiment makes none"),
    ],
    ids=range(6),
)
def test_what_is_not_there_is_named(folder, ask, message):
    with pytest.raises(fgg.FggError, match=message):
        ask(fgg.read_results(folder))


@pytest.mark.parametrize("given", ["nothing", "folder", 3, None], ids=str)
def test_a_folder_without_results(tmp_path, given):
    (tmp_path / "folder").mkdir()
    with pytest.raises(fgg.FggError, match=r"holds no summary\.csv|must be the path"):
        fgg.read_results(tmp_path / given if isinstance(given, str) else given)


@pytest.mark.parametrize("name", ["summary.csv", "a/faithfulness/transmm.parquet"])
def test_a_damaged_table_is_refused(folder, name):
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    results = fgg.read_results(folder)
    with pytest.raises(fgg.FggError, match=f"{Path(name).name}.*damaged"):
        results.to_dataframe() if name == "summary.csv" else results.per_image("faithfulness", "a", "transmm")


def test_an_attribution_is_shown_in_short_and_as_a_frame():
    maps = torch.arange(6.0).view(2, 3)
    found = fgg.Attribution(
        maps, torch.tensor([1, 0]), torch.rand(2), torch.rand(2, 2), torch.tensor([1, 0]), {2: maps + 1}, {2: maps}
    )
    assert repr(found) == "Attribution(2 images, 3 patches, target [1, 0], gates at layers 2)"
    frame = found.to_dataframe(["x", "y"])
    assert list(frame.columns) == ["image_id", "patch", "relevance", "gate_2", "score_2"]
    assert frame[frame["image_id"] == "y"]["relevance"].tolist() == [3.0, 4.0, 5.0]
    assert found.to_dataframe()["image_id"].tolist() == ["0"] * 3 + ["1"] * 3
    with pytest.raises(fgg.FggError, match="1 image_ids for 2 images"):
        found.to_dataframe(["x"])
