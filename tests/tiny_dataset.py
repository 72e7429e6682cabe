"""What the main job leaves for a dataset, made in a second: prepared pictures, a random model, SAEs, attributions."""

from __future__ import annotations

from pathlib import Path

import torch
from pictures import draw
from zoo import make_images, make_sae

from fgg.attribution.__main__ import run as attribute
from fgg.attribution.job import Job
from fgg.data.prepare import prepare
from fgg.data.preprocess import Preprocess
from fgg.models import model_files
from fgg.models.layer_diagnosis import diagnose
from fgg.models.vit import load_model
from fgg.saes import build_sae

ARCHITECTURE = "vit_tiny_patch16_224"
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "mlp_ratio": 2}
# Resized out of proportion, then cropped: the model sees a part of a picture of another shape.
PREPROCESS = Preprocess((40, 48), crop=32, mean=(0.36, 0.3, 0.4), std=(0.15, 0.2, 0.1))
CLASSES = ["bar", "disc", "noise"]
LAYERS = (0, 1)
GATED = "gated-l0.1-combined-c10-a1"
SETTINGS = {"seed": 0, "device": "cpu", "precision": "fp32", "batch_size": None, "max_images": 6}

# What the metrics' jobs are told, small.
RUN = {"seed": 0, "device": "cpu", "precision": "fp32", "max_images": None}
METRICS = {
    "saco": {"patches_per_bin": 4, "bins": None},
    "faithfulness_correlation": {"runs": 8, "trials": 2, "subset_size": 5},
    "pixel_flipping": {"patches_per_step": 1},
}


def untrained(folder: Path, pictures: Path) -> Path:
    """Write ``data/``, three fifths of the pictures its test split, and ``model/``; return the folder."""
    fractions = {"train": 0.2, "val": 0.2, "test": 0.6}
    settings = {"source": "image_folder", "path": str(pictures), "max_skipped": 0.0, "seed": 0, "fractions": fractions}
    prepare("toy", settings, folder / "data")
    torch.manual_seed(0)
    kwargs = {**KWARGS, "mlp_ratio": 4}
    record = {
        "architecture": ARCHITECTURE, "kwargs": kwargs, "classes": CLASSES, "layers": [],
        "preprocess": Preprocess(32, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2)).to_dict(),
    }  # fmt: skip
    model_files.save(folder / "model", load_model(ARCHITECTURE, kwargs, num_classes=len(CLASSES)), record, {})
    return folder


def make(folder: Path) -> Path:
    """Write ``data/`` and ``results/`` of the dataset ``tiny``, and return the folder."""
    pictures = draw(folder / "pictures", 6)
    settings = {"source": "image_folder", "path": str(pictures), "max_skipped": 0.0, "seed": 0}
    prepared, results = folder / "data" / "prepared" / "tiny", folder / "results" / "tiny" / "attributions"
    prepare("tiny", {**settings, "fractions": {"train": 0.34, "val": 0.33, "test": 0.33}}, prepared)
    model, home = _model(), folder / "data" / "models" / "tiny"
    record = {
        "architecture": ARCHITECTURE, "kwargs": KWARGS, "weights": "train", "classes": CLASSES,
        "preprocess": PREPROCESS.to_dict(), "layers": diagnose(model, make_images(model, 8)),
    }  # fmt: skip
    model_files.save(home, model, record, {})
    saes = {layer: folder / "data" / "saes" / "tiny" / f"layer_{layer}" for layer in LAYERS}
    for layer, place in saes.items():
        place.mkdir(parents=True)
        build_sae.save_inference(make_sae(10 + layer), place)
    for name, experiment, needed in (
        ("transmm", {"method": "transmm"}, {}),
        ("rollout", {"method": "rollout"}, {}),
        (GATED, {"method": "transmm", "gate": {"layers": list(LAYERS), "construction": "combined"}}, saes),
    ):
        images, relevance = prepared / "test.parquet", results / f"{name}.parquet"
        attribute(Job(home, images, experiment, SETTINGS, relevance, saes=needed))
    return folder


def _model() -> torch.nn.Module:
    """Random, with attention that is not flat and classes that differ."""
    model = load_model(ARCHITECTURE, KWARGS, num_classes=len(CLASSES))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if parameter.ndim > 1:
                parameter.copy_((1.6 if "qkv" in name or "head" in name else 1.0) * noise / parameter[0].numel() ** 0.5)
            elif "norm" not in name:
                parameter.copy_(0.2 * noise)
    return model
