"""Synthetic scores of the default grid, and the tables made of them."""

import json

import pytest
from synthetic_scores import results, write_scores

from fgg.comparison.__main__ import main
from fgg.tables import write_json

__all__ = ["results", "write_scores"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_scores):
    """The comparison of a small grid, and the records of what it rests on."""
    folder = tmp_path_factory.mktemp("pages")
    settings = write_scores(folder, 40, undefined=4)
    keep = ("transmm", "gradcam", "gated-l2-combined-c10-a1", "gated-l2-combined-c10-a1-sharpened")
    keep += ("gated-l2-combined-c10-a1-values", "gated-l2-combined-c10-a1-order")
    settings["experiments"] = {"toy": {name: settings["experiments"]["toy"][name] for name in keep}}
    data = folder / "data"
    record = {
        "architecture": "vit", "weights": "train", "classes": ["cat", "dog"],
        "accuracy": {"test": {"accuracy": 0.875, "majority_accuracy": 0.5, "logistic_regression_accuracy": 0.6}},
        "layers": [{"layer": 2, "status": "cancelled"}, {"layer": 3, "status": "zero"}],
    }  # fmt: skip
    write_json(data / "models/toy/model.json", record, {})
    counts = {
        "source": "image_folder",
        "counts": {"test": {"cat": 30, "dog": 20}},
        "n_skipped": 2,
        "n_unreadable": 1,
        "classes": ["cat", "dog"],
    }
    write_json(data / "prepared/toy/dataset.json", counts, {})
    measured = {"explained_variance": 0.9, "l0": 4.0, "dead_share": None, "features": 32, "tokens": 640}
    write_json(data / "saes/toy/layer_2/metrics.json", {**measured, "dead_share": 0.25}, {})
    arguments = ["--settings", json.dumps(settings), "--results", str(folder), "--data", str(data)]
    assert main([*arguments, "--output", str(folder)]) == 0
    return folder
