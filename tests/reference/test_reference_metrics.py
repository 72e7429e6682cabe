"""The three metrics under `protocol: thesis`, and the perturbation engine, against the reference vectors."""

import numpy as np
import pytest
import torch

from fgg.faithfulness import faithfulness_correlation, pixel_flipping, saco
from fgg.models.vit import patch_size
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import make_fill

TIED = ("gradcam", "tied")


@pytest.fixture(scope="module", params=["tokens", "pixels"])
def engine(request, reference_model, reference_images):
    """Both paths of the engine must give the stored numbers."""
    return Perturber(reference_model, reference_images, path=request.param)


@pytest.fixture(scope="module")
def maps(read):
    return {name: torch.from_numpy(rows) for name, rows in read("metric_attributions.npz").items()}


# ---------------------------------------------------------------- SaCo


def stored_bins(records, patches):
    """Bin of each patch, the bin of highest mean first, as the research code orders them; and the records so."""
    ordered = [sorted(image, key=lambda record: -record["mean_attribution"]) for image in records]
    bins = torch.zeros(len(records), patches, dtype=torch.long)
    for image, row in enumerate(ordered):
        for number, record in enumerate(row):
            bins[image, record["patch_indices"]] = number
    return bins, ordered


def test_fill_and_original_confidence(engine, read, close):
    stored = read("saco.json")
    close(engine.mean, stored["fill_value_per_image"], atol=1e-6)
    close(engine.clean.softmax(-1).amax(-1), stored["original_confidence"], atol=1e-6)


def test_saco(engine, maps, read, close):
    scored = 0
    for name, run in read("saco.json")["runs"].items():
        rows = maps[run["attribution"]]
        bins, records = stored_bins(run["bin_records"], rows.shape[1])
        if run["attribution"] in TIED:  # the order of ties is the reference machine's
            out = saco.score_bins(engine, rows, bins, int(bins.max()) + 1, None, "thesis")
        else:
            order = rows.argsort(dim=-1, descending=True, stable=True)
            assert saco.membership(order, run["n_bins"]).tolist() == bins.tolist(), name
            out = saco.evaluate(engine, rows, bins=run["n_bins"], protocol="thesis")
        drops = [[record["confidence_delta"] for record in row] for row in records]
        totals = [[record["total_attribution"] for record in row] for row in records]
        sizes = [[record["n_patches"] for record in row] for row in records]
        close(out.drops, drops, atol=5e-6, what=f"{name} drops")
        close(out.totals, totals, atol=1e-6, rtol=1e-5, what=f"{name} totals")
        assert [torch.bincount(row).tolist() for row in bins] == sizes
        if run["min_gap_between_drops"] > 1e-5:
            close(out.score, run["scores"], atol=1e-5, what=name)
            scored += 1
    assert scored > 0


def test_calculate_saco(read, close):
    for case in read("edge_cases.json")["calculate_saco"]:
        totals = torch.tensor([case["attributions"]], dtype=torch.float64)
        drops = torch.tensor([case["drops"]], dtype=torch.float64)
        score, equal = saco.coefficient(totals, drops, "thesis")
        close(score, [case["score"]], atol=1e-12, what=str(case))
        values = case["drops"]
        assert equal.item() == sum(a == b for i, a in enumerate(values) for b in values[i + 1 :])


def test_attribution_bins(read):
    """More bins than patches, which the research code cuts to one patch each, are an error in the package."""
    for case in read("edge_cases.json")["create_attribution_bins_no_ties"]:
        relevance = torch.tensor([case["attribution"]])
        order = relevance.argsort(dim=-1, descending=True, stable=True)
        bins = saco.membership(order, min(case["n_bins"], relevance.shape[1]))[0]
        ours = [bins.eq(number).nonzero()[:, 0].tolist() for number in range(int(bins.max()) + 1)]
        theirs = [sorted(record["patch_indices"]) for record in reversed(case["bins"])]
        assert ours == theirs, case["n_bins"]


# ---------------------------------------------------------------- Faithfulness Correlation


def test_faithfulness_correlation(engine, maps, read, close):
    stored = read("faithfulness_correlation.npz")
    drops_of = {}
    for run in read("faithfulness_correlation.json"):
        name, size = run["run"], f"bs{run['gpu_batch_size']}"
        subsets = torch.from_numpy(stored[f"subsets_{size}"].astype(np.int64)).permute(2, 0, 1, 3)
        images, trials, runs, _ = subsets.shape
        if size not in drops_of:
            drops_of[size] = faithfulness_correlation.responses(engine, subsets.flatten(1, 2)).view(
                images, trials, runs
            )
        drops = drops_of[size]
        close(drops.transpose(0, 1), stored[f"{name}_pred_deltas"], atol=3e-5, what=f"{name} drops")
        rows = maps[run["attribution"]]
        scores = faithfulness_correlation.correlate(rows, subsets, drops, "thesis")
        duplicated = stored[f"has_duplicate_subset_{size}"]
        loose = duplicated | (run["attribution"] in TIED)
        close(scores.T, stored[f"{name}_scores"], atol=np.where(loose, 1e-3, 1e-6), what=f"{name} scores")
        loose = loose.any(0)
        close(scores.mean(1), stored[f"{name}_mean"], atol=np.where(loose, 1e-3, 1e-6), what=f"{name} mean")
        spread = scores.std(1, correction=0)
        close(spread, stored[f"{name}_std"], atol=np.where(loose, 1e-3, 1e-6), what=f"{name} standard deviation")
        # From the stored drops the ranks leave no room.
        exact = faithfulness_correlation.correlate(
            rows, subsets, torch.from_numpy(stored[f"{name}_pred_deltas"]).transpose(0, 1), "thesis"
        )
        if run["attribution"] not in TIED:
            close(exact.T, stored[f"{name}_scores"], atol=np.where(duplicated, 1e-3, 1e-9), what=f"{name} ranks")


@pytest.mark.parametrize("case", ["fc_constant_attribution", "fc_tiny_attribution_times_1e-12"])
def test_constant_relevance_scores_zero_in_the_thesis(case, maps, read):
    stored = read("faithfulness_correlation.npz")
    subsets = torch.from_numpy(stored["subsets_bs256"].astype(np.int64)).permute(2, 0, 1, 3)
    drops = torch.from_numpy(stored["transmm_bs256_pred_deltas"]).transpose(0, 1)
    rows = torch.full_like(maps["transmm"], 0.3) if "constant" in case else maps["transmm"] * 1e-12
    scores = faithfulness_correlation.correlate(rows, subsets, drops, "thesis")
    assert read("edge_cases.json")[case] == [0.0]
    assert (scores == 0).all()
    corrected = faithfulness_correlation.correlate(rows, subsets, drops, "corrected")
    assert corrected.isnan().all() if "constant" in case else corrected.isfinite().all()


# ---------------------------------------------------------------- Pixel Flipping


def test_pixel_flipping(engine, maps, read, close):
    stored = read("pixel_flipping.npz")
    for run in read("pixel_flipping.json"):
        name, rows = run["run"], maps[run["attribution"]]
        step, filling = run["features_in_step"], run["perturb_baseline"]
        order = torch.from_numpy(stored[f"{run['attribution']}_order"].astype(np.int64))
        chosen = engine.clean.argmax(-1)
        own = engine.using(make_fill({"black": 0}.get(filling, filling), engine.images, patch_size(engine.model)))
        out = pixel_flipping.follow(own, order, chosen, step)
        close(out.curve, stored[f"{name}_preds"], atol=5e-6, what=f"{name} curve")
        close(out.auc, stored[f"{name}_auc"], atol=2e-5, what=f"{name} area")
        if run["attribution"] not in TIED:
            assert rows.argsort(dim=-1, descending=True, stable=True).tolist() == order.tolist(), name
            whole = pixel_flipping.evaluate(own, rows, None, step, "thesis")
            close(whole.auc, stored[f"{name}_auc"], atol=2e-5, what=f"{name} area from relevance")


def test_running_fill_values(engine, read, close):
    stored = read("pixel_flipping.npz")
    for run in read("pixel_flipping.json"):
        fill = stored[f"{run['run']}_fill"]
        if run["perturb_baseline"] == "black":
            assert (fill == 0).all()
            continue
        order = torch.from_numpy(stored[f"{run['attribution']}_order"].astype(np.int64))
        numbers = torch.arange(order.shape[1]) // run["features_in_step"]
        step_of = torch.empty_like(order).scatter_(1, order, numbers.expand_as(order))
        close(pixel_flipping._running_means(engine, step_of, fill.shape[1]), fill, atol=2e-6, what=run["run"])
