"""A run is opened from Python: its model, SAEs and images are those on the disk, and what is missing is named."""

import shutil
from pathlib import Path

import pytest
import tiny_dataset
import torch

import fgg
from fgg.data.load import load_split
from fgg.models import model_files
from fgg.pipeline.code_hashes import code_hash
from fgg.tables import write_json

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run."""
    place = tiny_dataset.make(tmp_path_factory.mktemp("run"))
    for layer in tiny_dataset.LAYERS:
        measured = {"layer": layer, "explained_variance": 0.5 + layer / 10, "learning_curve": [1, 2], "kind": "trained"}
        write_json(place / "data" / "saes" / "tiny" / f"layer_{layer}" / "metrics.json", measured, {})
    return place


def test_it_holds_what_is_on_the_disk(folder):
    run = fgg.open_run(folder)
    model, preprocess, record = model_files.load(folder / "data" / "models" / "tiny", torch.device("cpu"))
    assert run.dataset == "tiny" and run.classes == record["classes"] and run.preprocess == preprocess
    assert all(torch.equal(own, model.state_dict()[name]) for name, own in run.model.state_dict().items())
    images = run.images(4)
    split = load_split(folder / "data" / "prepared" / "tiny" / "test.parquet", 4, 0)
    assert images.image_ids == split.image_ids and images.label_names == split.label_names
    assert torch.equal(images.tensors, split.tensors(preprocess)) and images.labels.tolist() == split.labels.tolist()
    assert images.picture(2).tobytes() == split.picture(2).tobytes()
    assert len(run.images(None, "train")) > len(run.images(3, "val")) == 3
    assert run.images(4, seed=1).image_ids != images.image_ids


def test_its_saes_are_read_when_they_are_used(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    damaged = tmp_path / "data" / "saes" / "tiny" / "layer_0" / "sae_weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    run = fgg.open_run(tmp_path)
    assert list(run.saes) == [0, 1] and 1 in run.saes and 7 not in run.saes and len(run.saes) == 2
    assert run.saes[1] is run.saes[1]
    with pytest.raises(KeyError, match=r"no SAE at layer 7; there are SAEs at \[0, 1\]"):
        run.saes[7]
    images = run.images(2).tensors
    gated = fgg.attribute(run.model, images, gate=fgg.Gate(1), saes=run.saes)
    given = {1: fgg.load_sae(tmp_path / "data" / "saes" / "tiny" / "layer_1")}
    assert torch.equal(gated.relevance, fgg.attribute(run.model, images, gate=fgg.Gate(1), saes=given).relevance)
    with pytest.raises(fgg.FggError, match="layer_0"):
        fgg.attribute(run.model, images, gate=fgg.Gate((0, 1)), saes=run.saes)
    with pytest.raises(fgg.FggError, match="needs an SAE there"):
        fgg.attribute(run.model, images, gate=fgg.Gate(2), saes=run.saes)


def test_the_quality_of_its_saes(folder):
    frame = fgg.open_run(folder).sae_quality()
    assert frame["layer"].tolist() == [0, 1] and frame["explained_variance"].tolist() == [0.5, 0.6]
    assert list(frame.columns) == ["layer", "explained_variance", "kind"], "single numbers and words"


def test_it_is_shown_in_short(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = fgg.open_run()
    assert repr(run).splitlines() == [
        "Run of 'tiny' in '.'",
        "  model: 4 blocks of width 24, 16 patches",
        "  classes: 3: bar, disc, noise",
        "  SAEs: at layers 0, 1",
    ]
    html = fgg.run.Run(run.directory, "<i>", run.model, run.preprocess, ["<b>"], run.saes)
    monkeypatch.setattr(fgg.run.Run, "accuracy", {})
    assert "&lt;i&gt;" in html._repr_html_() and "<b>" not in html._repr_html_()
    assert repr(run.images(2)).startswith("Images(2 of test.parquet, 3 x 32 x 32: ")


def test_two_datasets_must_be_named(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    for kind in ("models", "prepared", "saes"):
        shutil.copytree(tmp_path / "data" / kind / "tiny", tmp_path / "data" / kind / "other")
    with pytest.raises(fgg.FggError, match="holds several datasets: other, tiny; name one, such as dataset='other'"):
        fgg.open_run(tmp_path)
    assert fgg.open_run(tmp_path, "other").dataset == "other"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda folder: fgg.open_run(folder / "nowhere"), "holds no trained model"),
        (lambda folder: fgg.open_run(folder, "elpv"), "holds no trained dataset 'elpv'; it has tiny"),
        (lambda folder: fgg.open_run(None), "directory: None must be the path of a run's folder"),
        (lambda folder: fgg.example_run(3), "directory: 3 must be the path of a run's folder"),
        (lambda folder: fgg.open_run(folder).images(split="tests"), "split: 'tests' is unknown; choose from train"),
        (lambda folder: fgg.open_run(folder).images(0), "count: 0 must be a whole number of at least 1"),
        (lambda folder: fgg.open_run(folder).images(True), "count: True must be a whole number"),
        (lambda folder: fgg.open_run(folder).results, r"holds no summary\.csv"),
    ],
    ids=range(8),
)
def test_what_is_missing_is_named(folder, ask, message):
    with pytest.raises(fgg.FggError, match=message):
        ask(folder)


def test_a_change_of_the_pictures_reruns_no_maps_and_no_scores(tmp_path):
    shutil.copytree(ROOT / "fgg", tmp_path / "fgg", ignore=shutil.ignore_patterns("__pycache__"))
    jobs = ("fgg.attribution.__main__", "fgg.faithfulness.__main__")

    def hashes():
        code_hash.cache_clear()
        return [code_hash(job, str(tmp_path)) for job in jobs]

    before = hashes()
    for name in ("plot/batches.py", "plot/curves.py", "html_tables.py"):
        with (tmp_path / "fgg" / name).open("a") as file:
            file.write("\nMORE = 1\n")
    assert hashes() == before
    with (tmp_path / "fgg" / "attribution" / "result.py").open("a") as file:
        file.write("\nMORE = 1\n")
    changed = hashes()
    assert changed[0] != before[0]
    code_hash.cache_clear()


def test_images_with_names_are_taken_where_names_are_asked_for_and_named_where_tensors_are(folder):
    run = fgg.open_run(folder)
    images = run.images(3)
    out = fgg.attribute(run.model, images.tensors)
    assert list(dict.fromkeys(out.to_dataframe(images)["image_id"])) == list(images.image_ids)
    with pytest.raises(fgg.FggError, match=r"not a Images; give its \.tensors"):
        fgg.attribute(run.model, images)
    with pytest.raises(fgg.FggError, match="most is 0"):
        out.show(images, most=0)
