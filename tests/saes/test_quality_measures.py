"""What is measured of an SAE: known answers, slow definitions, and the same numbers from sae-lens and ViSAEBench."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from slow_sae_measures import FEATURES, WIDTH, drawn, random_sae, slow_monosemanticity, slow_moran, weights

from fgg.comparison.sae_table import MEASURES
from fgg.data.load import load_split
from fgg.models import model_files
from fgg.models.vit import load_model
from fgg.saes import bases, measures
from fgg.saes.held_out import measure_held_out, patches_and_embeddings
from fgg.saes.measures import Reconstruction, measure
from fgg.saes.sae import load_sae

LAYER = 1
CPU = torch.device("cpu")


def of_codes(codes):
    """What `Reconstruction` says of codes (n, F), with residuals that do not matter."""
    found = Reconstruction(codes.shape[1], 3)
    rows = drawn(len(codes), 3)
    found.update(rows, codes, rows)
    return found


# ---- reconstruction, sparsity and use


def test_a_perfect_sae():
    found = measure(bases.identity(WIDTH), drawn(50, WIDTH))
    assert (found["explained_variance"], found["fvu"]) == (1.0, 0.0)
    assert found["cosine_similarity"] == pytest.approx(1)
    assert found["l0"] == WIDTH and found["dead_share"] == 0


def test_the_mean_alone_explains_nothing():
    rows = drawn(50, WIDTH)
    sae = SimpleNamespace(W_dec=torch.zeros(3, WIDTH), encode=lambda x: torch.zeros(len(x), 3),
                          decode=lambda codes: rows.mean(0).expand(len(codes), -1))  # fmt: skip
    found = measure(sae, rows)
    assert (found["explained_variance"], found["fvu"]) == (pytest.approx(0, abs=1e-7), pytest.approx(1))
    assert (found["l0"], found["dead_share"]) == (0, 1) and math.isnan(found["usage_entropy"])


def test_a_large_mean_costs_no_digits():
    rows = drawn(400, WIDTH) + 1e4
    sae = SimpleNamespace(W_dec=torch.zeros(3, WIDTH), encode=lambda x: torch.ones(len(x), 3))
    sae.decode = lambda codes: (rows.double().mean(0) + 0 * codes[:, :1]).expand(len(codes), WIDTH)
    assert measure(sae, rows, chunk=7)["fvu"] == pytest.approx(1, abs=1e-9)


def test_a_stream_gives_what_all_rows_at_once_give():
    sae, rows = random_sae(), drawn(53, WIDTH)
    whole = measure(sae, rows)
    assert measure(sae, iter(rows.split(10)), chunk=4) == pytest.approx(whole, rel=1e-6)
    assert 0 < whole["l0"] <= 4


def test_constant_residuals_have_no_explained_variance():
    found = measures.finite(measure(random_sae(), torch.ones(9, WIDTH)))
    assert found["explained_variance"] is found["fvu"] is None
    assert not list(measures.faults(found))


def test_dense_dead_and_rare_features():
    """100 tokens: feature 0 is always active, 1 on 11 of them, 2 on 10, 3 on 1, and 4 never."""
    codes = torch.zeros(100, 5)
    for feature, count in enumerate((100, 11, 10, 1, 0)):
        codes[:count, feature] = 0.5
    found = of_codes(codes)
    assert found.result()["dense_share"] == pytest.approx(2 / 5), "more than a tenth of the tokens"
    assert found.result()["dead_share"] == pytest.approx(1 / 5)
    counts = found.histogram()["counts"]
    assert sum(counts) == 4 and counts[-1] == 1, "dead features are not in the histogram"
    edges = np.linspace(-5, 0, 21)
    wanted, _ = np.histogram(np.log10([1, 0.11, 0.1, 0.01]), edges)
    assert counts == wanted.tolist()


def test_the_rarest_features_are_in_the_first_bin():
    found = of_codes(torch.eye(1, 2))
    found.tokens = 10**7
    assert found.histogram()["counts"] == [1] + [0] * 19


def test_quartiles_of_l0():
    rng = np.random.default_rng(0)
    codes = torch.from_numpy((rng.random((97, 30)) < rng.random((97, 1))).astype(np.float32))
    found, own = of_codes(codes).result(), codes.sum(1).numpy()
    wanted = np.quantile(own, [0.25, 0.5, 0.75], method="inverted_cdf")
    assert [found[name] for name in ("l0_low", "l0_median", "l0_high")] == wanted.tolist()
    assert found["l0"] == pytest.approx(own.mean())


def test_entropy_of_use():
    assert of_codes(torch.ones(7, 6)).result()["usage_entropy"] == pytest.approx(1)
    one = torch.zeros(7, 6)
    one[:, 2] = 1
    assert of_codes(one).result()["usage_entropy"] == pytest.approx(0)
    half = torch.zeros(7, 16)
    half[:, :4] = 1
    assert of_codes(half).result()["usage_entropy"] == pytest.approx(0.5), "log 4 / log 16"


def test_as_sae_lens_and_saebench_measure():
    """The code of SAEBench's core evaluation, in the version that sae-lens maintains, on images as its prompts."""
    from sae_lens.evals import get_sparsity_and_variance_metrics
    from sae_lens.training.activation_scaler import ActivationScaler

    sae, images = random_sae(), drawn(6, 9, WIDTH) + 2
    sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_head_index = "blocks.0.hook_resid_post", None
    parts = iter(images.split(2))
    store = SimpleNamespace(get_batch_tokens=lambda size: torch.zeros(2, 9))
    model = SimpleNamespace(run_with_cache=lambda *a, **k: (None, {sae.cfg.metadata.hook_name: next(parts)}))
    theirs, per_feature = get_sparsity_and_variance_metrics(
        sae, model, store, ActivationScaler(), 3, False, True, True, True, 2, {}
    )
    ours = Reconstruction(FEATURES, WIDTH)
    for part in images.flatten(0, 1).split(7):
        codes = sae.encode(part)
        ours.update(part, codes, sae.decode(codes))
    found = ours.result()
    assert found["explained_variance"] == pytest.approx(theirs["explained_variance"], abs=1e-5)
    assert found["cosine_similarity"] == pytest.approx(theirs["cossim"], abs=1e-5)
    assert found["l0"] == pytest.approx(theirs["l0"], abs=1e-5)
    density = np.array(per_feature["feature_density"])
    assert np.allclose(ours.frequencies.numpy(), density, atol=1e-5)
    assert found["dense_share"] == pytest.approx((density > 0.1).mean())


def test_fvu_as_in_visaebench():
    """ViSAEBench takes one mean over all dimensions from inputs and residuals: the same where both are 0."""
    from visaebench.metrics.reconstruction.fvu import FVU

    sae, rows = random_sae(), drawn(60, WIDTH)
    rows -= rows.mean(0)
    shift = (rows - sae.decode(sae.encode(rows))).mean()
    moved = SimpleNamespace(W_dec=sae.W_dec, encode=sae.encode, decode=lambda codes: sae.decode(codes) + shift)
    with torch.no_grad():
        theirs = FVU(batch_size=16).compute(moved, rows, device="cpu", dict_size=FEATURES)
    ours = measure(moved, rows)
    assert ours["fvu"] == pytest.approx(theirs.value, abs=1e-5)
    assert ours["l0"] == pytest.approx(theirs.metadata["l0"])
    assert 100 * ours["dead_share"] == pytest.approx(theirs.metadata["dead_pct"])


# ---- all together


def test_everything_on_held_out_images_by_hand(data, model_folder, sae_folder):
    """Image by image, with hooks of our own."""
    model, preprocess, _ = model_files.load(model_folder, CPU)
    split, sae = load_split(data / "val.parquet"), load_sae(sae_folder)
    residuals, embeddings = [], []
    hooks = [
        model.blocks[LAYER].register_forward_hook(
            lambda block, given, output: residuals.append(output[0, 1:].detach())
        ),
        model.head.register_forward_pre_hook(lambda head, given: embeddings.append(given[0][0].detach())),
    ]
    for image in split.tensors(preprocess):
        model(image[None])
    for hook in hooks:
        hook.remove()
    codes = torch.stack([sae.encode(own) for own in residuals])
    found = measure_held_out(model, preprocess, sae, LAYER, split)
    by_hand = [slow_monosemanticity(own, torch.stack(embeddings)) for own in codes.amax(1).T if (own > 0).sum() > 1]
    assert found["monosemanticity"] == pytest.approx(np.mean(by_hand), abs=1e-4)
    assert found["monosemanticity_features"] == pytest.approx(len(by_hand), abs=1)
    maps = {f: [own[:, f] for own in codes if 5 <= (own[:, f] > 0).sum() <= 14] for f in range(codes.shape[2])}
    w = weights((4, 4), False)
    per_feature = [np.mean([slow_moran(own.numpy(), w) for own in some]) for some in maps.values() if some]
    assert found["morans_i"] == pytest.approx(np.mean(per_feature), abs=1e-3)
    assert found["explained_variance"] == pytest.approx(
        measure(sae, torch.cat(residuals))["explained_variance"], abs=1e-5
    )
    assert sum(found["frequency_histogram"]["counts"]) == round((1 - found["dead_share"]) * found["features"])
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_a_head_that_pools_by_itself(make_images):
    kwargs = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    model = load_model("vit_tiny_patch16_224", {**kwargs, "global_pool": "token_and_avg"}, num_classes=3)
    images = make_images(model)
    patches, embeddings = patches_and_embeddings(model, images, 0)
    tokens = model.forward_features(images)
    assert embeddings.shape == (len(images), model.embed_dim) and patches.shape[1] == model.patch_embed.num_patches
    assert torch.allclose(embeddings, tokens[:, model.num_prefix_tokens :].mean(1), atol=1e-5)


def test_metrics_json_holds_all_of_it(sae_folder):
    found = json.loads((sae_folder / "metrics.json").read_text())
    assert found["fvu"] == pytest.approx(1 - found["explained_variance"])
    assert found["l0_low"] <= found["l0_median"] <= found["l0_high"]
    assert found["morans_i_random"] == pytest.approx(-1 / 15)
    assert -1 <= found["monosemanticity"] <= 1 and 0 < found["cosine_similarity"] < 1
    assert len(found["frequency_histogram"]["counts"]) == 20
    assert set(MEASURES) <= set(found), "every column of results/sae_quality.csv"
