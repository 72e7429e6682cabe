"""The two commands, from a dataset's tables to tables and pictures; results against what they were made of."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny_dataset as tiny
from PIL import Image

from fgg.attribution.__main__ import run as attribute
from fgg.attribution.job import Job
from fgg.cases import __main__ as command
from fgg.cases import prototypes
from fgg.cases.drawing import Album, Prototypes
from fgg.data.load import load_split
from fgg.faithfulness.registry import chosen, defaults
from fgg.tables import matrix, read_table, write_table

METRICS = chosen(defaults())

GATE = {"layers": [0, 1], "construction": "combined", "clamp_max": 10.0, "alpha": 1.0, "shuffle_decoder": False}
EXPERIMENT = {"method": "transmm", "gate": GATE, "control": None}
SETTINGS = {**tiny.SETTINGS, "per_category": 1, "patches": 2}
FOUND = {**tiny.SETTINGS, "prototypes": 3, "prototype_images": 5}
LOST = 2  # the place of an image without any defined gain
UNMEASURABLE = 5  # and of one that cannot be measured


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The tiny dataset with gates, made-up scores, and prototypes of both layers."""
    folder = tiny.make(tmp_path_factory.mktemp("cases"))
    results, model = folder / "results/tiny", folder / "data/models/tiny"
    saes = {layer: folder / f"data/saes/tiny/layer_{layer}" for layer in tiny.LAYERS}
    test, maps = folder / "data/prepared/tiny/test.parquet", results / "attributions" / f"{tiny.GATED}.parquet"
    gates = results / "gates" / f"{tiny.GATED}.parquet"
    attribute(Job(model, test, EXPERIMENT, tiny.SETTINGS, maps, gates, saes))
    ids = read_table(maps)["image_id"].to_pylist()
    draw = np.random.default_rng(0)
    for name in ("transmm", tiny.GATED):
        scores = {metric: draw.normal(size=len(ids)) for metric in METRICS}
        for values in scores.values():
            values[LOST] = math.nan
        scores["saco"][0] = math.nan
        order = draw.permutation(len(ids))  # rows in any order: images go by their ids
        columns = {key: np.asarray(values)[order] for key, values in {"image_id": ids, **scores}.items()}
        columns["image_id"] = columns["image_id"].tolist()
        write_table(results / "faithfulness" / f"{name}.parquet", columns, {})
    measurable = np.arange(len(ids)) != UNMEASURABLE
    write_table(
        results / "images.parquet", {"image_id": ids, "fill": ["mean"] * len(ids), "measurable": measurable}, {}
    )
    for layer, sae in saes.items():
        arguments = ["--model", str(model), "--sae", str(sae), "--layer", str(layer), "--settings", json.dumps(FOUND)]
        arguments += ["--images", str(folder / "data/prepared/tiny/train.parquet")]
        assert prototypes.main([*arguments, "--output", str(results / f"prototypes/layer_{layer}.parquet")]) == 0
    return folder


def make(folder, output, results=None, experiment=EXPERIMENT):
    """Run the command; its exit code."""
    arguments = ["--model", folder / "data/models/tiny", "--images", folder / "data/prepared/tiny/test.parquet"]
    arguments += ["--prototype-images", folder / "data/prepared/tiny/train.parquet"]
    for layer in tiny.LAYERS:
        arguments += ["--sae", f"{layer}={folder}/data/saes/tiny/layer_{layer}"]
    arguments += ["--results", results or folder / "results/tiny", "--dataset", "tiny", "--id", tiny.GATED]
    arguments += ["--metrics", json.dumps([[name, ["mean"]] for name in METRICS])]
    arguments += ["--experiment", json.dumps(experiment), "--baseline", "transmm", "--settings", json.dumps(SETTINGS)]
    return command.main([str(argument) for argument in [*arguments, "--output", output]])


@pytest.fixture(scope="module")
def study(dataset):
    folder = dataset / "study"
    assert make(dataset, folder) == 0
    results = dataset / "results/tiny"
    gated = read_table(results / f"attributions/{tiny.GATED}.parquet")
    return SimpleNamespace(
        folder=folder,
        cases=pd.read_csv(folder / "cases.csv"),
        features=pd.read_csv(folder / "features.csv"),
        record=json.loads((folder / "cases.json").read_text()),
        ids=gated["image_id"].to_pylist(),
        gated=gated,
        vanilla=read_table(results / "attributions/transmm.parquet"),
        gates=read_table(results / f"gates/{tiny.GATED}.parquet"),
        scores={name: read_table(results / f"faithfulness/{name}.parquet") for name in ("transmm", tiny.GATED)},
        split=load_split(dataset / "data/prepared/tiny/test.parquet", 6, 0),
    )


def test_prototypes_are_the_strongest_of_the_searched_images(dataset):
    """And of the split they were asked from: none of the explained images."""
    explained = set(load_split(dataset / "data/prepared/tiny/test.parquet").image_ids)
    searched = set(load_split(dataset / "data/prepared/tiny/train.parquet", 5, 0).image_ids)
    for layer in tiny.LAYERS:
        table = read_table(dataset / f"results/tiny/prototypes/layer_{layer}.parquet").to_pandas()
        assert list(table.columns) == ["feature", "rank", "image_id", "patch", "activation"]
        assert set(table["image_id"]) <= searched and not set(table["image_id"]) & explained
        assert table["patch"].between(0, 15).all() and (table["activation"] > 0).all()
        for _, own in table.groupby("feature"):
            assert own["rank"].tolist() == list(range(1, len(own) + 1)) and len(own) <= FOUND["prototypes"]
            assert own["activation"].is_monotonic_decreasing


def test_a_row_per_image_layer_and_patch(study):
    chosen = study.record["chosen"]
    assert set(chosen) == {"improved", "degraded", "random"} and all(len(own) == 1 for own in chosen.values())
    keys = study.cases[["layer", "category", "image_id", "patch_rank"]].to_records(index=False).tolist()
    assert keys == [
        (layer, category, image_id, rank)
        for layer in tiny.LAYERS
        for category, own in chosen.items()
        for image_id in own
        for rank in (1, 2)
    ]
    assert (study.cases["row"] * 4 + study.cases["column"] == study.cases["patch"]).all()


def test_gains_are_those_of_the_scores(study):
    scores = {name: table.to_pandas().set_index("image_id") for name, table in study.scores.items()}
    for row in study.cases.to_dict("records"):
        for name, metric in METRICS.items():
            better, worse = scores[tiny.GATED].loc[row["image_id"], name], scores["transmm"].loc[row["image_id"], name]
            gain = better - worse if metric.higher_is_better else worse - better
            assert row[f"gain_{name}"] == pytest.approx(gain, nan_ok=True)
    best, last = (study.cases[study.cases["category"] == kind]["composite"] for kind in ("improved", "degraded"))
    assert best.min() > last.max()


def test_rows_hold_what_the_tables_hold(study):
    """By image id, though the tables are in different orders; names instead of indices."""
    place = {image_id: i for i, image_id in enumerate(study.ids)}
    labels = dict(zip(study.split.image_ids, study.split.label_names, strict=True))
    layers = np.asarray(study.gates["layer"])
    for row in study.cases.to_dict("records"):
        i, patch = place[row["image_id"]], row["patch"]
        assert row["vanilla_relevance"] == pytest.approx(matrix(study.vanilla, "relevance")[i, patch])
        assert row["gated_relevance"] == pytest.approx(matrix(study.gated, "relevance")[i, patch])
        assert row["confidence"] == pytest.approx(study.gated["confidence"][i].as_py())
        assert row["predicted_class"] == tiny.CLASSES[study.gated["predicted"][i].as_py()]
        assert row["true_class"] == labels[row["image_id"]]
        for name in ("score", "gate"):
            own = matrix(study.gates, name)[layers == row["layer"]]
            assert row[name] == pytest.approx(own[i, patch])
        assert row["change"] == pytest.approx(row["gated_map"] - row["vanilla_map"], abs=1e-6)
        if row["direction"] == row["direction"]:
            assert row["contribution"] == pytest.approx(row["activation"] * row["feature_gradient"])
            assert row["direction"] == ("BOOST" if row["contribution"] > 0 else "SUPPRESS")
            assert np.sign(row["contribution"]) == np.sign(row["change"])
            assert 0 < row["share"] <= 1
        else:
            assert np.isnan(row["share"])
    largest = study.cases.groupby(["layer", "image_id"])["change"].apply(lambda own: own.abs().is_monotonic_decreasing)
    assert largest.all()


def test_what_cannot_be_ranked_is_counted_and_named(study):
    lost = {study.ids[LOST], study.ids[UNMEASURABLE]}
    assert set(study.record["unranked"]) == lost
    assert (study.record["n_images"], study.record["n_ranked"], study.record["n_unranked"]) == (6, 4, 2)
    assert study.record["n_unmeasurable"] == 1
    assert not lost & {*study.record["chosen"]["improved"], *study.record["chosen"]["degraded"]}
    assert study.record["gains"]["saco"]["defined"] == 3
    assert study.record["fgg"]["settings"] == SETTINGS


def test_features_over_all_images(dataset, study):
    """Counted again with one image at a time."""
    import torch

    from fgg.attribution.gate import Gate
    from fgg.cases.features import dominant_in_batch, most_changed, seen_relevance
    from fgg.models import model_files
    from fgg.saes.sae import load_sae

    model, preprocess, _ = model_files.load(dataset / "data/models/tiny", torch.device("cpu"))
    saes = {layer: load_sae(dataset / f"data/saes/tiny/layer_{layer}") for layer in tiny.LAYERS}
    counted: dict[tuple, list] = {}
    for i in range(len(study.ids)):
        maps = [torch.from_numpy(matrix(table, "relevance")[[i]].copy()) for table in (study.vanilla, study.gated)]
        before, after = (seen_relevance(own, (4, 4), (32, 32)) for own in maps)
        change = after - before
        top = most_changed(change, 2)[0].tolist()
        found = dominant_in_batch(model, study.split.tensors(preprocess, [i]), Gate((0, 1)), saes, change)
        for layer, own in found.items():
            for patch, feature in enumerate(own.feature[0].tolist()):
                if feature >= 0:
                    event = (i, change[0, patch].item() > 0, patch in top, own.contribution[0, patch].item())
                    counted.setdefault((layer, feature), []).append(event)
    rows = study.features.set_index(["layer", "feature"])
    assert set(rows.index) == set(counted)
    for key, events in counted.items():
        row = rows.loc[key]
        assert row["boosts"] == sum(up for _, up, _, _ in events)
        assert row["suppresses"] == sum(not up for _, up, _, _ in events)
        assert row["boosts_most_changed"] == sum(up and top for _, up, top, _ in events)
        assert row["suppresses_most_changed"] == sum(not up and top for _, up, top, _ in events)
        assert row["images"] == len({i for i, _, _, _ in events})
        assert row["mean_contribution"] == pytest.approx(np.mean([c for _, _, _, c in events]), rel=1e-4)
        for direction, wanted in (("boosted", True), ("suppressed", False)):
            classes: dict[str, int] = {}
            for i, up, _, _ in events:
                name = tiny.CLASSES[study.gated["predicted"][i].as_py()]
                classes[name] = classes.get(name, 0) + (up == wanted)
            text = "" if pd.isna(row[f"{direction}_classes"]) else row[f"{direction}_classes"]
            assert {part.rsplit(" ", 1)[0]: int(part.rsplit(" ", 1)[1]) for part in text.split("; ") if part} == {
                name: count for name, count in classes.items() if count
            }
        own = study.cases[(study.cases["layer"] == key[0]) & (study.cases["feature"] == key[1])]
        assert row["cases"] == len(own)


def test_every_picture_is_there_and_no_other(study):
    pictures = {path.relative_to(study.folder).as_posix() for path in study.folder.rglob("*.png")}
    assert pictures == set(study.cases["picture"]) | set(study.features["page"].dropna())
    assert any("/features/" in name for name in pictures)
    for name in pictures:
        with Image.open(study.folder / name) as picture:
            assert picture.width == 1050 and 300 < picture.height < 1500
            drawn = np.asarray(picture.convert("L"))
        assert np.unique(drawn).size > 20
    others = {path.name for path in study.folder.iterdir() if path.is_file()}
    assert others == {"cases.csv", "features.csv", "cases.json"}


def test_the_same_again_gives_the_same_bytes(dataset, study):
    assert make(dataset, dataset / "again") == 0
    first = {path.relative_to(study.folder): path.read_bytes() for path in study.folder.rglob("*") if path.is_file()}
    second = dataset / "again"
    assert first == {path.relative_to(second): path.read_bytes() for path in second.rglob("*") if path.is_file()}


def test_a_prototype_is_never_of_the_image_itself(dataset):
    split = load_split(dataset / "data/prepared/tiny/train.parquet")
    preprocess = tiny.PREPROCESS
    table = read_table(dataset / "results/tiny/prototypes/layer_0.parquet").to_pandas()
    feature = int(table["feature"].iloc[0])
    own = table[table["feature"] == feature]
    found = Prototypes(dataset / "results/tiny/prototypes", {(0, feature)}, Album(split, preprocess), (4, 4))
    assert [patch.patch for patch in found(0, feature)] == own["patch"].tolist()
    first = own["image_id"].iloc[0]
    assert [p.patch for p in found(0, feature, first)] == own[own["image_id"] != first]["patch"].tolist()
    assert found(1, feature) == []


@pytest.mark.parametrize("change", [{"control": "permuted_gate"}, {"gate": {**GATE, "construction": "no_sae"}}])
def test_a_gate_without_features_of_its_own_is_refused(change, dataset, tmp_path, capsys):
    assert make(dataset, tmp_path / "out", experiment={**EXPERIMENT, **change}) == 1
    assert "need a gate that reads SAE features" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_folder_and_nothing_else(dataset, tmp_path, capsys):
    results = tmp_path / "results"
    shutil.copytree(dataset / "results/tiny", results)
    path = results / "attributions/transmm.parquet"
    write_table(path, read_table(path).slice(1), {})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").touch()
    assert make(dataset, tmp_path / "out", results) == 1
    assert "transmm.parquet holds other images" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "results"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
