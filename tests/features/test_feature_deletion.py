"""Deleted features against a slow pass with hooks, a model whose answer is known, and the command."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tiny_dataset as toy
import torch
from zoo import make_images, make_model, make_sae

from fgg.features.__main__ import MOST_ALONE, Place, main, measure
from fgg.features.deletion import NONE, delete, features_of, rest
from fgg.features.groups import ranked
from fgg.models.capture import capture
from fgg.statistics.correlation import rank_correlation

SETTINGS = {"counts": [1, 2, 4], "draws": 2, "seed": 0}
CHANGE, SIZE = "logit_change", "absolute_change"


def found(model, sae, layer, images):
    seen = capture(model, images, layers=[layer])
    return seen, features_of(model, sae, layer, seen.residuals[layer], seen.gradients[layer])


def by_hand(model, sae, layer, image, deleted):
    """Logits (K,) of a pass in which a hook takes features out, one by one, by the difference of two reconstructions."""
    first = model.num_prefix_tokens

    def hook(_module, _inputs, output):
        output = output.clone()
        for feature in deleted:
            patches = output_before[:, first:]
            codes = sae.encode(patches)
            whole = sae.decode(codes)
            codes = sae.encode(patches)  # some normalisations forget what they saw when they decode
            codes[..., feature] = 0
            output[:, first:] -= whole - sae.decode(codes)
        return output

    def remember(_module, _inputs, output):
        nonlocal output_before
        output_before = output

    output_before = None
    handles = [model.blocks[layer].register_forward_hook(each) for each in (remember, hook)]
    with torch.no_grad():
        logits = model(image[None])[0]
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("layer", [0, 1])
def test_against_a_pass_with_hooks(model, images, saes, layer):
    """Each kind of model; the SAE of layer 1 normalises its input."""
    sae = saes[layer]
    seen, own = found(model, sae, layer, images)
    order = [ranked(own.scores[i].numpy(), own.activation[i].numpy())["score"] for i in range(len(images))]
    sets = [(i, order[i][:k].tolist()) for i in range(len(images)) for k in (0, 1, 4)]
    deleted = torch.full((len(sets), 4), NONE)
    for row, (_, numbers) in enumerate(sets):
        deleted[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
    logits, share = delete(model, layer, own, torch.tensor([i for i, _ in sets]), deleted, rows=5)
    for row, (i, numbers) in enumerate(sets):
        slow = by_hand(model, sae, layer, images[i], numbers)
        torch.testing.assert_close(logits[row], slow, atol=2e-4, rtol=1e-4)
        assert bool(share[row] > 0) == bool(numbers)
    assert (logits[1::3] - logits[::3]).abs().max() > 1e-3, "the deletions do something"
    torch.testing.assert_close(logits[::3], seen.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["none", "layer_norm", "constant_norm_rescale"])
def test_the_parts_add_up_to_what_the_sae_reconstructs(plain, pictures, kind):
    sae = make_sae(12, kind)
    _, own = found(plain, sae, 0, pictures)
    patches = own.tokens[:, 1:]
    whole = sae.decode(sae.encode(patches))
    sae.encode(patches)
    nothing = sae.decode(torch.zeros_like(own.parts))
    torch.testing.assert_close(own.parts @ own.rows, whole - nothing, atol=1e-5, rtol=1e-4)


def test_codes_in_units_of_the_decoders_length(plain, pictures):
    sae = make_sae(13)
    sae.cfg.rescale_acts_by_decoder_norm = True
    _, own = found(plain, sae, 0, pictures)
    torch.testing.assert_close(own.rows.norm(dim=1), torch.ones(len(own.rows)))


def test_scores_and_predictions_against_loops(plain, pictures):
    sae = make_sae(14)
    seen, own = found(plain, sae, 1, pictures)
    codes = sae.encode(seen.residuals[1][:, 1:]).detach()
    for i in range(2):
        for feature in range(0, codes.shape[2], 7):
            score = sum(
                float(codes[i, n, feature]) * float(seen.gradients[1][i, 1 + n] @ sae.W_dec[feature].detach())
                for n in range(codes.shape[1])
            )
            assert float(own.scores[i, feature]) == pytest.approx(score, abs=1e-5)
            assert float(own.expected[i, feature]) == pytest.approx(-score, abs=1e-5)
            assert float(own.activation[i, feature]) == pytest.approx(float(codes[i, :, feature].sum()), abs=1e-4)


def linear_end():
    """A model that is linear after its last block: no norm, mean of the patches, linear head."""
    model = make_model(class_token=False, global_pool="avg", pos_embed="learn")
    model.norm, model.fc_norm = torch.nn.Identity(), torch.nn.Identity()
    return model


def test_where_the_rest_is_linear_the_scores_are_the_effects():
    model, sae = linear_end(), make_sae(15)
    images, last = make_images(model, 6), len(model.blocks) - 1
    groups, alone = (pd.DataFrame(each) for each in measure(
        Place(model, sae, last, 7), images, None, [f"i{i}" for i in range(6)], SETTINGS
    ))  # fmt: skip
    np.testing.assert_allclose(
        groups[CHANGE][groups["draws"] == 1], groups["expected"][groups["draws"] == 1], atol=2e-5
    )
    np.testing.assert_allclose(alone[CHANGE], alone["expected"], atol=2e-5)
    for _, own in alone.groupby("image_id"):
        assert rank_correlation(*(own[[name]].to_numpy().T for name in ("expected", CHANGE)))[0] > 0.99
    wide = groups.pivot(index="image_id", columns=["group", "k"])
    for k in (1, 2, 4):
        assert (wide[CHANGE]["positive", k] < wide[CHANGE]["random_positive", k]).all()
        assert (wide[CHANGE]["positive", k] < 0).all() and (wide[CHANGE]["negative", k] > 0).all()
    assert (wide[SIZE]["score", 1] > wide[SIZE]["random", 1]).all()
    assert (wide[SIZE]["score", 1] >= wide[SIZE]["most_active", 1] - 1e-6).all()


def test_rows_of_an_image_against_single_deletions(plain, pictures, saes):
    """Change, its size and the probability, from the logits of the model with hooks."""
    sae, layer = saes[0], 0
    seen, own = found(plain, sae, layer, pictures)
    groups, alone = measure(Place(plain, sae, layer, 9), pictures, None, ["a", "b", "c", "d"], SETTINGS)
    table, single = pd.DataFrame(groups), pd.DataFrame(alone)
    target = seen.target.tolist()
    for i, image_id in enumerate("abcd"):
        order = ranked(own.scores[i].numpy(), own.activation[i].numpy())
        for group in ("score", "positive", "negative", "most_active", "least_active"):
            slow = by_hand(plain, sae, layer, pictures[i], order[group][:2].tolist())
            row = table[(table["image_id"] == image_id) & (table["group"] == group) & (table["k"] == 2)].iloc[0]
            change = float(slow[target[i]] - seen.logits[i, target[i]])
            assert row[CHANGE] == pytest.approx(change, abs=2e-4) and row[SIZE] == pytest.approx(abs(change), abs=2e-4)
            after = slow.softmax(-1)[target[i]] - seen.logits[i].softmax(-1)[target[i]]
            assert row["probability_change"] == pytest.approx(float(after), abs=1e-4)
            assert row["expected"] == pytest.approx(float(own.expected[i, order[group][:2].copy()].sum()), abs=1e-5)
            assert row["activation"] == pytest.approx(float(own.activation[i, order[group][:2].copy()].sum()), rel=1e-5)
        mine = single[single["image_id"] == image_id]
        assert len(mine) == min(MOST_ALONE, int((own.activation[i] > 0).sum()))
        first = mine.iloc[0]
        slow = by_hand(plain, sae, layer, pictures[i], [int(first["feature"])])
        assert first[CHANGE] == pytest.approx(float(slow[target[i]] - seen.logits[i, target[i]]), abs=2e-4)
    random = table[table["group"] == "random"]
    assert (random["draws"] == 2).all() and (random[SIZE] >= random[CHANGE].abs() - 1e-9).all()


def test_the_class_that_is_asked_for_is_explained(plain, pictures, saes):
    asked = torch.tensor([3, 3, 0, 1])
    groups, _ = measure(Place(plain, saes[0], 0, 9), pictures, asked, ["a", "b", "c", "d"], SETTINGS)
    table = pd.DataFrame(groups)
    assert table.groupby("image_id")["target"].unique().map(list).tolist() == [[3], [3], [0], [1]]
    np.testing.assert_allclose(
        table["logit"][table["image_id"] == "c"], float(plain(pictures).detach()[2, 0]), atol=1e-5
    )


def test_nothing_active_gives_no_row(plain, pictures):
    sae = make_sae(16)
    sae.b_enc.data -= 1e6
    groups, alone = measure(Place(plain, sae, 0, 9), pictures, None, ["a", "b", "c", "d"], SETTINGS)
    assert not groups and not alone


def test_the_model_leaves_as_it_came(plain, pictures, saes):
    before, training = plain(pictures), plain.training
    measure(Place(plain, saes[0], 0, 9), pictures, None, ["a", "b", "c", "d"], SETTINGS)
    assert torch.equal(plain(pictures), before) and plain.training == training
    assert not any(block._forward_hooks for block in plain.blocks)
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_the_rest_of_the_model(model, images):
    seen = capture(model, images, layers=[0, len(model.blocks) - 1])
    with torch.no_grad():
        for layer in (0, len(model.blocks) - 1):
            torch.testing.assert_close(rest(model, layer, seen.residuals[layer]), seen.logits, atol=1e-4, rtol=1e-4)


# ---- the command


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("features"))


def run(study, name, sae=None, **changes):
    settings = {"device": "cpu", "precision": "fp32", "batch_size": None, "max_images": 6, "target": "predicted"}
    settings |= {"sample": None, **SETTINGS, **changes}
    arguments = ["--model", study / "data/models/tiny", "--images", study / "data/prepared/tiny/test.parquet"]
    arguments += ["--sae", sae or study / "data/saes/tiny/layer_1", "--layer", 1, "--settings", json.dumps(settings)]
    arguments += ["--output", study / f"{name}.parquet", "--alone", study / f"{name}_alone.parquet"]
    return main([str(argument) for argument in arguments])


def test_the_command_writes_both_tables_with_the_same_bytes_again(study):
    assert run(study, "first") == run(study, "second") == 0
    for kind in ("", "_alone"):
        first, second = (study / f"{name}{kind}.parquet" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    table = pd.read_parquet(study / "first.parquet")
    assert table["image_id"].nunique() == 6
    assert not table.duplicated(["image_id", "group", "k"]).any()
    assert set(table["k"]) == {1, 2, 4}


def test_the_batches_decide_neither_the_features_nor_their_effects(study):
    assert run(study, "first") == run(study, "small", batch_size=1) == 0
    first, small = (pd.read_parquet(study / f"{name}.parquet") for name in ("first", "small"))
    pd.testing.assert_frame_equal(first, small, atol=1e-4, rtol=1e-4)


def test_a_limit_holds_for_a_sample_too(study):
    """``max_images`` does not bound a sample."""
    assert run(study, "few", limit=2) == 0
    found = pd.read_parquet(study / "few.parquet")["image_id"].unique().tolist()
    every = pd.read_parquet(study / "first.parquet")["image_id"].unique().tolist()
    assert found == [every[0], every[3]]


def test_an_sae_of_another_models_weights_is_refused(study, tmp_path, capsys):
    import shutil

    own = tmp_path / "sae"
    shutil.copytree(study / "data/saes/tiny/layer_1", own)
    config = json.loads((own / "cfg.json").read_text())
    config["metadata"] = {**config.get("metadata", {}), "model": {"architecture": "vit", "sha256": "0" * 64}}
    (own / "cfg.json").write_text(json.dumps(config))
    assert run(study, "other", sae=own) == 1
    assert "was made for the model" in capsys.readouterr().err
