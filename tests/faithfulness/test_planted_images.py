"""Planted images: what taking out the cue does to the model, which images count, and scores against their masks."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import fgg
from fgg.data.load import load_split
from fgg.data.prepare import prepare
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.faithfulness.__main__ import run as score
from fgg.faithfulness.job import Job
from fgg.faithfulness.measurable import main, measurable_images
from fgg.faithfulness.registry import localising
from fgg.faithfulness.responses import run as respond
from fgg.jobs.shards import Shard
from fgg.models import model_files
from fgg.models.vit import load_model
from fgg.tables import read_settings, read_table, write_table

KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
PREPROCESS = Preprocess(32, mean=(0.5,) * 3, std=(0.05,) * 3)
PLANTED = {
    **{"images": "digits", "backgrounds": 30, "cue": "tone", "size": 8, "placement": "free", "share": 0.7},
    **{"size_of_image": 32, "cell": 8, "contrast": 0.4, "copies": 1},
}
RUN = {"seed": 0, "device": "cpu", "precision": "fp32", "batch_size": 4, "max_images": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with ``data/``, planted images; ``model/``, untrained; and ``results/`` with responses and random maps."""
    folder = tmp_path_factory.mktemp("planted")
    settings = {"source": "planted", "path": None, "max_skipped": 0.0, "seed": 0, "planted": PLANTED}
    prepare("planted", {**settings, "fractions": {"train": 0.3, "val": 0.2, "test": 0.5}}, folder / "data")
    torch.manual_seed(0)
    model = load_model("vit_tiny_patch16_224", KWARGS, num_classes=2)
    with torch.no_grad():  # weights large enough for probabilities that differ between images
        for weights in (own for own in model.parameters() if own.ndim > 1):
            weights.normal_(std=weights[0].numel() ** -0.5)
    record = {
        **{"architecture": "vit_tiny_patch16_224", "kwargs": KWARGS, "classes": ["darker", "lighter"], "layers": []},
        "preprocess": PREPROCESS.to_dict(),
    }
    model_files.save(folder / "model", model, record, {})
    results = folder / "results"
    respond(folder / "model", folder / "data/test.parquet", {**RUN, "fills": ["mean"]}, results / "responses.parquet")
    answered = read_table(results / "responses.parquet")
    split = load_split(folder / "data/test.parquet")
    columns = {name: answered[name].to_pylist() for name in ("image_id", "predicted", "target")}
    columns |= {"confidence": answered["probability"].to_pylist(), "label": split.labels}
    relevance = np.random.default_rng(0).normal(size=(len(split), 16)).astype(np.float32)
    relevance[3, 5] = np.nan
    write_table(results / "maps.parquet", {**columns, "relevance": relevance}, {})
    return folder, relevance


def measured(folder, output, **settings):
    arguments = ["--responses", str(folder / "results/responses.parquet"), "--output", str(output / "images.parquet")]
    assert main([*arguments, "--settings", json.dumps(settings)]) == 0
    return read_table(output / "images.parquet").to_pandas()


def test_the_probability_without_cue_and_without_decoy(made):
    folder, _ = made
    split, answered = load_split(folder / "data/test.parquet"), read_table(folder / "results/responses.parquet")
    model, _, _ = model_files.load(folder / "model", torch.device("cpu"))
    present = ~split.coverage(PREPROCESS, (8, 8)).isnan().any(1).numpy()
    assert 0 < present.sum() < len(split)
    for name, there in (("cue", present), ("decoy", np.ones(len(split), dtype=bool))):
        found = answered[f"probability_without_{name}"].to_numpy()
        assert np.array_equal(~np.isnan(found), there)
        with torch.no_grad():
            logits = model(split.tensors(PREPROCESS, np.flatnonzero(there), f"without_{name}"))
        chosen = torch.from_numpy(answered["target"].to_numpy().copy()[there])
        own = logits.double().softmax(-1).gather(1, chosen[:, None])[:, 0]
        np.testing.assert_allclose(found[there], own, atol=1e-5)
        assert np.abs(found[there] - answered["probability"].to_numpy()[there]).max() > 1e-3, "it changes nothing"


def test_images_without_cues_have_no_such_columns(made, tmp_path, pictures_folder):
    settings = {"source": "image_folder", "path": str(pictures_folder), "max_skipped": 0.0, "seed": 0}
    prepare("toy", {**settings, "fractions": {"train": 0.4, "val": 0.3, "test": 0.3}}, tmp_path / "data")
    model = load_model("vit_tiny_patch16_224", KWARGS, num_classes=3)
    record = {
        **{"architecture": "vit_tiny_patch16_224", "kwargs": KWARGS, "classes": ["bar", "disc", "noise"]},
        **{"preprocess": PREPROCESS.to_dict(), "layers": []},
    }
    model_files.save(tmp_path / "model", model, record, {})
    respond(tmp_path / "model", tmp_path / "data/test.parquet", RUN, tmp_path / "results/responses.parquet")
    names = read_table(tmp_path / "results/responses.parquet").column_names
    assert names == ["image_id", "predicted", "target", "probability", "filled_probability"]
    table = measured(tmp_path, tmp_path, least_drop=0.05)
    assert set(table["fill"]) == {"mean"} and read_settings(tmp_path / "images.parquet") == {"least_drop": 0.05}
    assert measurable_images(tmp_path, "", pd.Index(table["image_id"])).all()


def test_which_images_count(made, tmp_path):
    folder, _ = made
    answered = read_table(folder / "results/responses.parquet").to_pandas().set_index("image_id")
    drops = answered["probability"] - answered["probability_without_cue"]
    least = float(drops.dropna().median())
    table = measured(folder, tmp_path, least_drop=0.01, least_cue_drop=least)
    assert table["fill"].tolist() == ["mean", "cue", "decoy"] * len(answered)
    assert table["image_id"].tolist() == np.repeat(answered.index, 3).tolist()
    own = {fill: rows.set_index("image_id") for fill, rows in table.groupby("fill")}
    for name in ("cue", "decoy"):
        without = answered[f"probability_without_{name}"]
        pd.testing.assert_series_equal(own[name]["filled_probability"], without, check_names=False)
        pd.testing.assert_series_equal(own[name]["full_drop"], answered["probability"] - without, check_names=False)
    assert own["cue"]["measurable"].tolist() == (drops >= least).tolist()
    assert 0 < own["cue"]["measurable"].sum() < len(drops) and not own["cue"]["measurable"][drops.isna()].any()
    decoys = answered["probability"] - answered["probability_without_decoy"]
    assert own["decoy"]["measurable"].tolist() == (decoys >= 0.01).tolist()
    some = answered.index[::-2]
    assert measurable_images(tmp_path, "", some).tolist() == (drops[some] >= least).tolist()
    assert measurable_images(tmp_path, "cue", some).tolist() == measurable_images(tmp_path, "", some).tolist()
    strict = measured(folder, tmp_path, least_drop=0.01)
    wanted = (drops >= 0.5).tolist()
    assert strict.loc[strict["fill"] == "cue", "measurable"].tolist() == wanted, (
        "half, unless the settings say otherwise"
    )


def scored(folder, output, metrics, images=None, shard=None):
    settings = {"metrics": metrics, "protocol": "corrected", **RUN}
    images = images or folder / "data/test.parquet"
    score(Job(folder / "model", images, folder / "results/maps.parquet", settings, output, shard=shard or Shard(1, 1)))
    return read_table(output).to_pandas()


def test_the_scoring_job_gives_the_masks(made, tmp_path):
    folder, relevance = made
    metrics = {name: {} for name in localising()} | {"srg": {"patches_per_step": 8}}
    table = scored(folder, tmp_path / "scores.parquet", metrics)
    masks = load_split(folder / "data/test.parquet").coverage(PREPROCESS, (8, 8))
    expected = fgg.localisation(torch.from_numpy(relevance), masks)
    for name in localising():
        np.testing.assert_array_equal(table[name], expected[name])
        undefined = masks.isnan().any(1).numpy() | np.isnan(relevance).any(1)
        assert table[name].isna().tolist() == undefined.tolist() and 1 < undefined.sum() < len(table)
    parts = [scored(folder, tmp_path / f"{n}.parquet", metrics, shard=Shard(n, 2)) for n in (1, 2)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), table)


def test_masks_that_are_not_there(made, tmp_path):
    folder, _ = made
    images = read_table(folder / "data/test.parquet")
    write_table(tmp_path / "images.parquet", images.drop_columns(["mask"]), {})
    with pytest.raises(FggError, match=r"images\.parquet has no column mask"):
        scored(folder, tmp_path / "scores.parquet", {"pr_area": {}}, tmp_path / "images.parquet")
    scored(folder, tmp_path / "scores.parquet", {"srg": {"patches_per_step": 8}}, tmp_path / "images.parquet")
