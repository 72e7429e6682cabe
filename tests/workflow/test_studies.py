"""The three studies from a server on this machine to the summary: downloads, checkpoints, SAEs, maps and metrics."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path

import handed_out
import numpy as np
import pandas as pd
import pytest
import whole_workflow
from safetensors.torch import load_file
from server import COMMIT, Server

from fgg import tables

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("studies.yaml")
TABLE = ROOT / "workflow" / "sources.csv"
pytestmark = pytest.mark.dag
SPLITS = ("train", "val", "test")
DATA = ("imagenet", "hyperkvasir", "covidquex")
SHARD = f"/datasets/ILSVRC/imagenet-1k/resolve/{COMMIT}/data/validation-00000-of-00002.parquet"


def snakemake(folder: Path, server: Server, *arguments: str, check: bool = True) -> str:
    """Run the workflow in a folder, with the server in the place of all others; its output as text."""
    changes = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_test", "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    changes |= {"HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    arguments = ("--cores", "2", *arguments)
    return whole_workflow.snakemake(folder, *arguments, configs=[CONFIG], check=check, changes=changes, warm=True)


def hand_out(server: Server, folder: Path) -> dict:
    """Fill the server, and write a table of sources that leads to it; what the tests must find again."""
    made = {"zip": handed_out.hyperkvasir(), "hyperkvasir": handed_out.hyperkvasir_model(), "covidquex": handed_out.covidquex_model()}  # fmt: skip
    files = {
        "hyperkvasir": made["zip"][0],
        "hyperkvasir_model": made["hyperkvasir"][0],
        "hyperkvasir_saes": handed_out.hyperkvasir_saes(),
        "covidquex": handed_out.covidquex(),
        "covidquex_model": made["covidquex"][0],
        "covidquex_saes": handed_out.covidquex_saes(),
    }
    server.files = {f"/{name}": data for name, data in files.items()}
    server.hub = {
        "ILSVRC/imagenet-1k": handed_out.imagenet(),
        handed_out.CLIP: handed_out.clip(folder),
        handed_out.PRISMA: handed_out.prisma(),
    }
    server.datasets.add("ILSVRC/imagenet-1k")
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # the real table, with other addresses
        row["size"] = ""
        if row["kind"] != "hub":
            row |= {"address": f"{server.url}/{row['name']}", "sha256": hashlib.sha256(files[row["name"]]).hexdigest()}
    with (folder / "sources.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return {"rows": made["zip"][1], "hyperkvasir": made["hyperkvasir"][1], "covidquex": made["covidquex"][1]}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(folder, server, what was handed out, what the first attempt said, what it left): the second has run to its end."""
    folder = tmp_path_factory.mktemp("studies")
    with Server() as server:
        made = hand_out(server, folder)
        for path in ("/hyperkvasir", SHARD):
            server.faults[path] = ["drop", "corrupt"]
        # gdown asks for the whole file before it asks for the rest, and reads nothing of that answer.
        server.faults["/covidquex"] = ["drop", None, "corrupt"]
        wanted = (f"data/downloads/{name}/contents.json" for name in DATA)
        refused = snakemake(folder, server, *wanted, check=False)
        left = sorted(path.relative_to(folder).as_posix() for path in folder.glob("data/**/*") if path.is_file())
        snakemake(folder, server, "results/summary.csv")
        yield folder, server, made, refused, left


@pytest.mark.parametrize("name", DATA)
def test_a_dropped_connection_is_resumed_and_a_corrupted_file_refused(study, name):
    folder, server, _, refused, left = study
    assert f"error: {name}: " in refused
    assert "is not the expected file: its SHA-256 is" in refused
    path = SHARD if name == "imagenet" else f"/{name}"
    assert not [each for each in left if each.startswith(f"data/downloads/{name}/")]
    assert not [each for each in left if each.startswith("data/downloads/records/")]
    assert not [each for each in left if each.endswith((".part", Path(path).name))]
    ranges = server.ranges(path)
    assert ranges[0] is None and ranges[-1] is None, "once more from the start in the second attempt"
    assert server.faults[path] == []
    if name == "imagenet":  # the hub's library writes no piece as small as this shard, and asks for it anew
        assert ranges == [None] * 3
    else:
        (resumed,) = [each for each in ranges if each]
        assert int(resumed.removeprefix("bytes=").removesuffix("-")) > 2**18
    assert (folder / f"data/downloads/{name}/contents.json").is_file()


def test_the_summary_has_every_study_experiment_and_metric(study):
    folder, _, _, _, _ = study
    summary = pd.read_csv(folder / "results/summary.csv")
    gates = {"imagenet": "gated-l1-combined-c5-a1", "hyperkvasir": "gated-l1-combined-c10-a1"}
    gates["covidquex"] = gates["hyperkvasir"]
    summary = summary[summary["stratum"] == "all"]
    found = Counter(zip(summary["dataset"], summary["experiment"], strict=True))
    metrics, fills = 4, 2
    assert found == {(name, each): metrics * fills for name in DATA for each in ("transmm", gates[name])}
    sizes = summary.groupby("dataset")["n"].agg(["min", "max"])
    assert sizes.loc["imagenet"].tolist() == [20, 20]
    assert sizes.loc["covidquex"].tolist() == [9, 9]
    assert sizes.loc["hyperkvasir", "max"] <= 6
    assert summary["mean"].notna().all()
    for name in DATA:
        plain, gated = (
            tables.matrix(tables.read_table(folder / f"results/{name}/attributions/{each}.parquet"), "relevance")
            for each in ("transmm", gates[name])
        )
        assert np.isfinite(plain).all() and np.abs(plain - gated).max() > 1e-3 * np.abs(plain).max()


def expected_split(rows):
    """SSL4GIE's split as its paper's code makes it, computed here with numpy's generator alone; two files are no images.

    Scikit-learn takes the first of a permutation for the test set, the following ones for training.
    """
    names = [name for name, _ in rows]
    size = round(0.1 * len(names))

    def draw(members):
        order = np.random.RandomState(42).permutation(len(members))
        return [members[i] for i in order[size:]], [members[i] for i in order[:size]]

    rest, test = draw(names)
    train, val = draw(rest)
    lost = {"00000003-pylorus", "00000004-z-line"}
    return {"train": set(train) - lost, "val": set(val) - lost, "test": set(test) - lost}


def test_the_images_are_those_that_were_handed_out(study):
    folder, _, made, _, _ = study
    splits = {split: tables.read_table(folder / f"data/prepared/hyperkvasir/{split}.parquet") for split in SPLITS}
    assert {split: set(table["image_id"].to_pylist()) for split, table in splits.items()} == expected_split(
        made["rows"]
    )
    record = json.loads((folder / "data/prepared/hyperkvasir/dataset.json").read_text())
    assert record["classes"] == ["cecum", "ileum", "retroflex-rectum", "pylorus", "retroflex-stomach", "z-line"]
    assert (record["n_read"], record["n_unreadable"]) == (58, 2)
    reasons = {entry["path"]: entry["reason"] for entry in record["skipped"]}
    assert "No such file" in reasons["00000003-pylorus.jpg"]
    assert "truncated" in reasons["upper-gi-tract/anatomical-landmarks/z-line/00000004-z-line.jpg"].lower()
    assert record["licence"] == "CC BY 4.0" and "Borgli" in record["citation"]
    imagenet = json.loads((folder / "data/prepared/imagenet/dataset.json").read_text())
    assert imagenet["classes"] == handed_out.OBJECTS and imagenet["version"] == COMMIT
    assert {split: sum(counts.values()) for split, counts in imagenet["counts"].items()} == {
        "train": 4,
        "val": 16,
        "test": 20,
    }
    covid = json.loads((folder / "data/prepared/covidquex/dataset.json").read_text())
    assert covid["counts"]["val"] == dict.fromkeys(handed_out.LUNGS, 2)


def test_the_models_are_those_that_were_handed_out(study):
    folder, server, made, _, _ = study
    for name in ("hyperkvasir", "covidquex"):
        own = load_file(folder / f"data/models/{name}/model.safetensors")
        assert set(own) == set(made[name])
        assert all(own[key].equal(tensor) for key, tensor in made[name].items())
    record = json.loads((folder / "data/models/imagenet/model.json").read_text())
    assert record["zero_shot"]["texts"] == [
        "a photo of a tench",
        "a photo of a goldfish",
        "a photo of an umbrella",
        "a photo of an African elephant",
    ]
    assert record["zero_shot"]["temperature"] == 100 and record["zero_shot"]["tower_difference"] < 1e-3
    assert record["preprocess"]["size"] == {"shorter": 32} and record["preprocess"]["interpolation"] == "bicubic"
    assert not [path for _, path, _ in server.requests if path.endswith((".bin", "train-00000-of-00002.parquet"))]


def test_the_saes_are_those_that_were_handed_out_and_are_measured(study):
    folder, _, _, _, _ = study
    for name, seed, normalize in (
        ("hyperkvasir", 3, "layer_norm"),
        ("covidquex", 4, "layer_norm"),
        ("imagenet", 5, "none"),
    ):
        place = folder / f"data/saes/{name}/layer_1"
        own = load_file(place / "sae_weights.safetensors")
        assert all(own[key].equal(tensor) for key, tensor in handed_out.sae(seed).items())
        assert json.loads((place / "cfg.json").read_text())["normalize_activations"] == normalize
        measured = json.loads((place / "metrics.json").read_text())
        assert measured["l0"] > 1 and measured["explained_variance"] < 1


def test_a_second_run_has_nothing_to_do_and_asks_nobody(study):
    folder, server, _, _, _ = study
    asked = len(server.requests)
    assert "Nothing to be done" in snakemake(folder, server, "results/summary.csv", "--dry-run")
    assert len(server.requests) == asked


@pytest.mark.parametrize("name", DATA)
def test_the_thesis_settings_plan_offline(name, tmp_path):
    """The real configuration and table, before anything was downloaded: a dry run asks nobody."""
    overlay = ROOT / "workflow" / "studies" / f"{name}.yaml"
    changes = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    text = whole_workflow.snakemake(tmp_path, "-n", "results/summary.csv", configs=[overlay], changes=changes)
    plan = dict(words for line in text.splitlines() if len(words := line.split()) == 2 and words[1].isdigit())
    assert int(plan["download"]) == (5 if name == "imagenet" else 3)  # images, model, and SAEs: one archive or three
    assert (plan["prepare"], plan["model"], plan["sae"]) == ("1", "1", "3")
