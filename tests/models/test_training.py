"""Training: the same seed gives the same bytes, the loss falls, and nothing of the training stays in the model."""

import math

import pytest
import torch
from torch import nn

from fgg.errors import FggError
from fgg.models import training
from fgg.models.training import augment, make_optimisers, parameter_groups, predict, rate, train
from fgg.models.vit import load_model

ARCHITECTURE = "vit_tiny_patch16_224"
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2}


@pytest.fixture
def settings(defaults):
    """The `model.train` block, short."""
    return {**defaults["model"]["train"], "epochs": 2}


def run(pictures, settings, seed=0, **changes):
    images, labels = pictures("train")
    return train(ARCHITECTURE, KWARGS, images, labels, 3, {**settings, **changes}, seed)


def same(a, b):
    return all(torch.equal(one, two) for one, two in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_seed_alone_decides(pictures, settings):
    torch.manual_seed(1)
    model, history = run(pictures, settings)
    torch.manual_seed(2)
    again, history_again = run(pictures, settings)
    assert same(model, again) and history == history_again
    other, _ = run(pictures, settings, seed=1)
    assert not same(model, other)


def test_the_global_generator_is_left_alone(pictures, settings):
    before = torch.get_rng_state()
    run(pictures, settings)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loss_falls_below_chance_and_held_out_pictures_are_told_apart(pictures, settings):
    model, history = run(pictures, settings, epochs=40, full_epochs=6)
    assert history[0]["loss"] > 0.9 * math.log(3)
    assert history[-1]["loss"] < 0.7 * math.log(3)
    images, labels = pictures("val")
    assert (predict(model, images) == labels).float().mean() >= 0.75


def test_labels_that_mean_nothing_are_not_learnt(pictures, settings):
    """The test above would see a model that learns without looking."""
    images, _ = pictures("train")
    labels = torch.arange(len(images)) % 3
    _, history = train(ARCHITECTURE, KWARGS, torch.zeros_like(images), labels, 3, {**settings, "epochs": 5}, 0)
    assert history[-1]["loss"] > 0.95 * math.log(3)


def test_the_history_of_epochs(pictures, settings):
    _, history = run(pictures, settings, epochs=3)
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert all(set(entry) == {"epoch", "loss", "accuracy", "learning_rate"} for entry in history)
    assert all(0 <= entry["accuracy"] <= 1 for entry in history)
    steps = 3 * (24 // settings["batch_size"])
    warmup = max(1, round(settings["warmup"] * steps))
    last = [rate(3 * (epoch + 1), steps, warmup) * settings["learning_rate"] for epoch in range(3)]
    assert [entry["learning_rate"] for entry in history] == pytest.approx(last)


def test_no_trace_of_dropout_stays(pictures, settings):
    model, _ = run(pictures, settings, patch_drop=0.5, drop_path=0.3)
    plain = load_model(ARCHITECTURE, KWARGS, num_classes=3)
    assert str(model) == str(plain)
    assert not any(module.training for module in model.modules())
    assert not [m for m in model.modules() if getattr(m, "p", 0) or getattr(m, "drop_prob", 0) or getattr(m, "prob", 0)]
    plain.load_state_dict(model.state_dict())
    images, _ = pictures("val")
    assert torch.equal(model(images), plain(images))


def test_patches_are_dropped_but_in_the_last_epochs(pictures, settings, monkeypatch):
    tokens = []

    def watched(*arguments, **options):
        model = load_model(*arguments, **options)
        model.blocks[0].register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0].shape[1]))
        return model

    monkeypatch.setattr(training, "load_model", watched)
    run(pictures, settings, epochs=3, full_epochs=1, patch_drop=0.5)
    # The last pass is not of the training: it looks for NaN in what was trained.
    assert tokens == [1 + 8] * 6 + [1 + 16] * 3 + [1 + 16]
    tokens.clear()
    run(pictures, settings, epochs=1, full_epochs=5, patch_drop=0.5)
    assert tokens == [1 + 16] * 4


@pytest.mark.parametrize("learning_rate", [1e3, 1e6, 1e30])
def test_divergence_is_told(pictures, settings, learning_rate):
    with pytest.raises(
        FggError, match=r"training diverged in epoch [12] \(loss .*\); lower model\.train\.learning_rate"
    ):
        run(pictures, settings, learning_rate=learning_rate)


def test_fewer_images_than_a_batch(pictures, settings):
    images, labels = pictures("train")
    model, history = train(ARCHITECTURE, KWARGS, images[:5], labels[:5], 3, {**settings, "batch_size": 64}, 0)
    assert len(history) == 2 and all(p.isfinite().all() for p in model.parameters())
    with pytest.raises(FggError, match="the training split has no images"):
        train(ARCHITECTURE, KWARGS, images[:0], labels[:0], 3, settings, 0)


def test_the_learning_rate_rises_and_falls():
    assert [rate(step, 100, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(4, 100, 4) == 1.0
    assert rate(52, 100, 4) == pytest.approx(0.01 + 0.99 / 2)
    assert rate(100, 100, 4) == pytest.approx(0.01)
    falling = [rate(step, 100, 4) for step in range(4, 101)]
    assert falling == sorted(falling, reverse=True)


def test_weight_decay_spares_biases_norms_and_tokens(model):
    decayed, kept = parameter_groups(model, 0.3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    kept_names = {names[id(parameter)] for parameter in kept["params"]}
    assert {"cls_token", "pos_embed", "head.bias", "norm.weight", "blocks.0.norm1.weight"} <= kept_names
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    assert {"patch_embed.proj.weight", "head.weight", "blocks.3.mlp.fc2.weight"} <= decayed_names
    assert len(kept_names) + len(decayed_names) == len(names)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(model, settings):
    (alone,) = make_optimisers(model, settings)
    assert isinstance(alone, torch.optim.AdamW)
    adamw, muon = make_optimisers(model, {**settings, "muon_learning_rate": 0.003})
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def trained(optimiser):
        return {names[id(parameter)] for group in optimiser.param_groups for parameter in group["params"]}

    matrices = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    assert trained(muon) == {f"blocks.{block}.{matrix}" for block in range(4) for matrix in matrices}
    assert trained(adamw) == set(names.values()) - trained(muon) and trained(alone) == set(names.values())
    assert muon.param_groups[0]["lr"] == 0.003 and adamw.param_groups[0]["lr"] == settings["learning_rate"]


def test_training_by_muon(pictures, settings):
    changes = {"epochs": 40, "full_epochs": 6, "muon_learning_rate": 0.003}
    model, history = run(pictures, settings, **changes)
    again, _ = run(pictures, settings, **changes)
    assert same(model, again) and history[-1]["loss"] < 0.7 * math.log(3)
    first, _ = run(pictures, settings, epochs=1)
    other, _ = run(pictures, settings, epochs=1, muon_learning_rate=0.003)
    assert not same(first, other)


def test_predictions_do_not_depend_on_the_batch(model):
    images = torch.randn(7, 3, 32, 32, generator=generator())
    found = predict(model, images, batch=3)
    assert torch.equal(found, model(images).argmax(-1)) and not found.requires_grad
    assert isinstance(model, nn.Module)


# ---- augmentation

OFF = {"flips": False, "shift": 0, "contrast": 0.0}


@pytest.fixture
def images():
    return torch.randn(6, 3, 9, 7, generator=generator(5))


@pytest.mark.parametrize("changes", [{"flips": True}, {"shift": 2}, {"contrast": 0.3}, {}], ids=str)
def test_augmentation_keeps_the_shape_and_follows_the_generator(images, changes):
    settings = {**OFF, **(changes or {"flips": True, "shift": 2, "contrast": 0.3})}
    before = images.clone()
    torch.manual_seed(1)
    once = augment(images, settings, generator())
    torch.manual_seed(2)
    assert torch.equal(once, augment(images, settings, generator()))
    assert not torch.equal(once, augment(images, settings, generator(1)))
    assert once.shape == images.shape and once.dtype == images.dtype
    assert torch.equal(images, before)


def test_no_augmentation(images):
    assert torch.equal(augment(images, OFF, generator()), images)


def test_every_flip_of_an_image_comes_up(images):
    seen = set()
    for seed in range(10):
        for before, after in zip(images, augment(images, {**OFF, "flips": True}, generator(seed)), strict=True):
            forms = [before.flip(dims) for dims in ((), (1,), (2,), (1, 2))]
            (found,) = [i for i, form in enumerate(forms) if torch.equal(form, after)]
            seen.add(found)
    assert seen == {0, 1, 2, 3}


def test_shifts_repeat_the_edge(images):
    seen = set()
    for seed in range(20):
        for before, after in zip(images, augment(images, {**OFF, "shift": 1}, generator(seed)), strict=True):
            found = []
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    slow = torch.empty_like(before)
                    for y in range(9):
                        for x in range(7):
                            slow[:, y, x] = before[:, min(max(y + down, 0), 8), min(max(x + right, 0), 6)]
                    found += [(down, right)] if torch.equal(slow, after) else []
            assert len(found) == 1
            seen.update(found)
    assert len(seen) == 9


def test_contrast_scales_each_image_by_its_own_factor(images):
    factors = (augment(images, {**OFF, "contrast": 0.3}, generator()) / images).flatten(1)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), rtol=1e-4)
    assert ((factors > 0.7 - 1e-4) & (factors < 1.3 + 1e-4)).all()
    assert len(factors[:, 0].unique()) == len(images)
