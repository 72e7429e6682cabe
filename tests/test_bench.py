"""The benchmark's plain implementation and the package say the same."""

from __future__ import annotations

import json

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

import fgg
from fgg.bench import __main__ as bench
from fgg.bench import plain


def test_the_plain_metrics_equal_the_package(monkeypatch):
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=3).eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 32, 32, generator=generator)
    relevance = torch.rand(3, 16, generator=generator)
    subsets = torch.from_numpy(fgg.draw_subsets(list("abc"), 16, 1, 12, 5, 0)[:, 0])
    slow = plain.all_metrics(model, images.numpy(), relevance.double().numpy(), subsets.numpy(), 4)
    np.testing.assert_allclose(fgg.saco(model, images, relevance, bins=4), slow["saco"], atol=1e-5)
    np.testing.assert_allclose(fgg.pixel_flipping(model, images, relevance).auc, slow["pixel_flipping"], atol=1e-5)
    correlation = fgg.faithfulness_correlation(model, images, relevance, subsets=subsets)
    np.testing.assert_allclose(correlation, slow["faithfulness_correlation"], atol=1e-5)


def test_the_benchmark_measures_every_ratio(monkeypatch, tmp_path, capsys):
    tiny = {
        "architecture": "vit_tiny_patch16_224",
        "kwargs": {"img_size": 48, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
        "batches": (1, 2),
        "images": 1,
        "scored": 2,
        "sweep": True,
    }
    monkeypatch.setattr(bench, "SIZES", {"vit_b16": tiny})
    logs = ["--logs", str(tmp_path)]
    (tmp_path / "a.log").write_text("read\nstart-up took 1.00 s of 4.00 s\n")
    (tmp_path / "b.log").write_text("error: killed\n")
    assert (
        bench.main(["--output", str(tmp_path), "--sizes", "vit_b16", "--seconds", "0.1", "--device", "cpu", *logs]) == 0
    )
    found = json.loads((tmp_path / "vit_b16-cpu-fp32.json").read_text())
    for group, key in (
        ("a_perturbed_forward", "ratio_to_bare"),
        ("b_attribution", "bare_forwards_per_image"),
        ("c_metrics", "ratio_to_plain"),
        ("d_sweep", "twelve_over_one"),
        ("training", "share_of_limit"),
        ("sae_training", "share_of_limit"),
        ("intervals", "ratio_to_scipy"),
    ):
        assert found[group][key] > 0
    assert max(found["c_metrics"]["largest_deviation"].values()) < 1e-5
    assert found["d_sweep"]["largest_deviation"] < 1e-4, "maps of the plain gate, scored by the plain metrics"
    assert found["intervals"]["largest_gap"] < 0.1, "SciPy's resamples are others, the intervals are nearly the same"
    shown = capsys.readouterr().out
    assert "(a) perturbed forward" in shown and "25% of the time of its 1 jobs" in shown


def test_the_cost_of_start_up_is_added_up(tmp_path):
    (tmp_path / "rule").mkdir()
    (tmp_path / "rule" / "a.log").write_text("start-up took 1.00 s of 4.00 s\n")
    (tmp_path / "b.log").write_text("start-up took 9.00 s of 9.00 s\nagain\nstart-up took 2.00 s of 2.00 s\n")
    assert bench.startup(tmp_path) == {"jobs": 2, "seconds": 6.0, "start_seconds": 3.0, "share": 0.5}
    assert bench.startup(tmp_path / "none")["jobs"] == 0
