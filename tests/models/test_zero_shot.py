"""A head of texts on a timm tower: open_clip's own logits, and everything that runs on a model runs on it."""

import copy
import json
import os
from pathlib import Path

import clip as fixture
import pytest
import torch
from torch.nn import functional

import fgg
from fgg.attribution.controls import randomized_model
from fgg.errors import FggError
from fgg.models import build_model, model_files, zero_shot
from fgg.models.capture import capture
from fgg.models.layer_diagnosis import diagnose
from fgg.perturbation.engine import Perturber

CPU = torch.device("cpu")
CLASSES = ["tench, Tinca tinca", "orange", "African elephant, Loxodonta africana", "umbrella"]
TEXTS = ["a photo of a tench", "a photo of an orange", "a photo of an African elephant", "a photo of an umbrella"]


def settings(folder, quick_gelu=False, **zero):
    """The settings `model` for the CLIP model of a folder."""
    return {
        "architecture": fixture.ARCHITECTURE,
        "kwargs": fixture.KWARGS | ({"act_layer": "quick_gelu"} if quick_gelu else {}),
        "weights": str(Path(folder) / fixture.WEIGHTS),
        "zero_shot": {
            "open_clip": str(folder),
            "templates": ["a photo of a/an {name}"],
            "temperature": 100,
            "class_names": None,
        }
        | zero,
    }


@pytest.fixture(scope="module", params=[False, True], ids=["gelu", "quick_gelu"])
def made(request, tmp_path_factory):
    """A CLIP model's folder, open_clip's model, ours, and our record."""
    folder = tmp_path_factory.mktemp("clip")
    theirs = fixture.write_clip(folder, quick_gelu=request.param)
    ours, record = zero_shot.build(settings(folder, request.param), CLASSES)
    return folder, theirs, ours, record


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def their_logits(clip, images, texts, folder, temperature=100):
    import open_clip

    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        image, text = clip.encode_image(images, normalize=True), clip.encode_text(tokens, normalize=True)
    return temperature * image @ text.T


def test_the_logits_are_open_clips_own(made, pictures):
    folder, theirs, ours, record = made
    expected = their_logits(theirs, pictures, TEXTS, folder)
    assert torch.allclose(ours(pictures), expected, atol=1e-4)
    assert expected.std() > 0.5, "the classes must differ"
    assert record["texts"] == TEXTS and record["embedding"] == 16 and record["tower_difference"] < 1e-5
    assert ours.num_classes == 4 and not ours.training


def test_the_temperature_and_the_mean_of_several_templates(made, pictures):
    folder, theirs, _, _ = made
    templates = ["a photo of a/an {name}", "a blurry picture of {name}, a {name}"]
    quick = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["quick_gelu"]
    own = settings(folder, quick, templates=templates, temperature=7)
    ours, _ = zero_shot.build(own, ["tench", "orange"])
    texts = ["a photo of a tench", "a blurry picture of tench, a tench"]
    texts += ["a photo of an orange", "a blurry picture of orange, a orange"]
    import open_clip

    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        image, text = theirs.encode_image(pictures, normalize=True), theirs.encode_text(tokens, normalize=True)
    mean = functional.normalize(torch.stack([text[:2].mean(0), text[2:].mean(0)]), dim=1)
    assert torch.allclose(ours(pictures), 7 * image @ mean.T, atol=1e-4)


# ---- what runs on a model runs on it


def test_pixels_and_tokens_give_the_same_logits(made):
    _, _, ours, _ = made
    draw = torch.Generator().manual_seed(3)
    images = torch.randn(2, 3, 32, 32, generator=draw)
    masks = torch.rand(2, 5, 16, generator=draw) < 0.4
    by_tokens, by_pixels = (Perturber(ours, images, path=path).logits(masks) for path in ("tokens", "pixels"))
    assert Perturber(ours, images).path == "tokens"
    assert torch.allclose(by_tokens, by_pixels, atol=1e-4) and by_tokens.shape == (2, 5, 4)
    filled = torch.where(
        masks[0, 0].view(1, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2), images[0].mean(), images[0]
    )
    assert torch.allclose(by_tokens[0, 0], ours(filled[None])[0], atol=1e-4)


def test_the_gradient_is_that_of_the_scaled_cosine(made, pictures):
    """By finite differences along a patch's residual, in double precision."""
    seen = capture(made[2], pictures[:1], layers=[1])
    ours, token, step = copy.deepcopy(made[2]).double().requires_grad_(False), 5, 1e-4
    direction = torch.randn(24, generator=torch.Generator().manual_seed(4)).double()
    shifts = [step, -step]

    def shift(_block, _inputs, output):
        output[:, token] += shifts.pop(0) * direction
        return output

    ours.blocks[1].register_forward_hook(shift)
    logits = [float(ours(pictures[:1].double())[0, seen.target[0]]) for _ in range(2)]
    expected = (logits[0] - logits[1]) / (2 * step)
    assert float(seen.gradients[1][0, token].double() @ direction) == pytest.approx(expected, rel=1e-3)
    assert abs(expected) > 1e-3


@pytest.mark.parametrize("method", ["transmm", "rollout", "gradcam", "tokentm", "random"])
def test_every_method_runs_and_leaves_it_as_it_came(made, pictures, method):
    _, _, ours, _ = made
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    out = fgg.attribute(ours, pictures, method=method)
    assert out.relevance.shape == (4, 16) and out.relevance.isfinite().all()
    assert torch.allclose(out.logits, ours(pictures), atol=1e-4)
    alone = fgg.attribute(ours, pictures[2:3], method=method).relevance
    assert torch.allclose(out.relevance[2:3], alone, atol=1e-5 * float(alone.abs().max()) + 1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.state_dict().items())


def test_gates_and_metrics_run_on_it(made, pictures, make_sae):
    _, _, ours, _ = made
    gate = fgg.Gate(layers=(1,), construction="combined")
    out = fgg.attribute(ours, pictures, gate=gate, saes={1: make_sae(1)})
    assert (out.gates[1] != 1).any() and out.relevance.isfinite().all()
    assert fgg.saco(ours, pictures, out.relevance).isfinite().all()
    assert fgg.pixel_flipping(ours, pictures, out.relevance).auc.isfinite().all()


def test_residual_times_gradient_cancels_where_it_does_in_any_vit(made, pictures):
    assert [layer["status"] for layer in diagnose(made[2], pictures)] == ["ok", "ok", "cancelled", "zero"]


# ---- its folder


@pytest.fixture(scope="module")
def built(data, model_settings, tmp_path_factory):
    """The model's folder that the rule `model` writes, for the tiny dataset; its settings, and its record."""
    folder = tmp_path_factory.mktemp("built")
    fixture.write_clip(folder / "clip")
    own = {
        **copy.deepcopy(model_settings),
        "model": settings(
            folder / "clip", class_names={"bar": "bar of soap", "disc": "disc, record", "noise": "noise"}
        ),
    }
    own["preprocess"]["interpolation"] = "bicubic"
    record = build_model.build(data, own, folder / "model")
    return folder / "model", own, record


def test_the_folder_holds_the_head_and_needs_no_text_tower(built, pictures, monkeypatch):
    folder, _, record = built
    monkeypatch.setattr(zero_shot, "open_clip_model", lambda *_: pytest.fail("the text tower was read"))
    model, preprocess, read = model_files.load(folder, CPU)
    again, _ = model_files.load(folder, CPU)[:2]
    assert read["zero_shot"]["texts"] == ["a photo of a bar of soap", "a photo of a disc", "a photo of a noise"]
    assert read["classes"] == ["bar", "disc", "noise"] and read["training"] == []
    assert record["accuracy"]["test"]["images"] == 12
    assert torch.equal(model(pictures), again(pictures)) and model(pictures).shape == (4, 3)
    assert preprocess.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073)), "CLIP's own statistics"
    assert "text" not in dict(model.head.named_parameters()), "the head is frozen"


def test_what_is_read_back_is_what_was_made(built, pictures):
    folder, own, _ = built
    made, _ = zero_shot.build(own["model"], ["bar", "disc", "noise"])
    assert torch.equal(model_files.load(folder, CPU)[0](pictures), made(pictures))


def test_a_randomised_model_has_a_random_head_of_the_same_kind(built, pictures):
    record = built[2]
    one, two, other = (randomized_model(record, seed) for seed in (1, 1, 2))
    assert isinstance(one.head, zero_shot.ZeroShotHead) and one(pictures).shape == (4, 3)
    assert torch.equal(one(pictures), two(pictures)) and not torch.equal(one(pictures), other(pictures))


def test_weights_of_a_zero_shot_model_given_alone_are_named(built):
    with pytest.raises(
        FggError,
        match=r"unexpected: head\.projection\.weight, head\.text.*read its folder with fgg\.models\.model_files\.load",
    ):
        fgg.load_model(fixture.ARCHITECTURE, fixture.KWARGS, built[0] / "model.safetensors", num_classes=16)


# ---- names and templates


def test_articles_and_synonyms():
    assert zero_shot.class_names(["tench, Tinca tinca", " Egyptian cat ,x", "a,b"], None) == [
        "tench",
        "Egyptian cat",
        "a",
    ]
    assert zero_shot.prompts(["hour", "ice", "Urn"], ["a/an {name}!", "{name}"]) == [
        ["a hour!", "hour"],
        ["an ice!", "ice"],
        ["an Urn!", "Urn"],
    ], "the article follows the first letter"
    assert zero_shot.class_names(["n1", "n2"], ["cat", "dog"]) == ["cat", "dog"]
    assert zero_shot.class_names(["n1", "n2"], {"n2": "dog", "n1": "cat"}) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a"], "1 names, but the dataset has 2 classes"),
        ({"n1": "a"}, "lacks n2; the classes are n1, n2"),
        ({"n1": "a", "n2": "b", "n3": "c"}, "has n3, which the dataset does not have"),
        (["a", " , b"], "the classes n2 have no name"),
    ],
)
def test_class_names_that_do_not_serve(given, message):
    with pytest.raises(FggError, match=rf"model\.zero_shot\.class_names: {message}"):
        zero_shot.class_names(["n1", "n2"], given)


@pytest.mark.parametrize(
    ("templates", "message"), [([], "there are none"), (["a photo of {}"], r"'a photo of \{\}' lacks")]
)
def test_templates_that_do_not_serve(templates, message):
    with pytest.raises(FggError, match=rf"model\.zero_shot\.templates: {message}"):
        zero_shot.prompts(["a"], templates)


# ---- models that do not serve


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-33/openai", r"is not a folder, and open_clip has no model 'ViT-B-33' \(did you mean ViT-B-32"),
        ("ViT-B-32", "names no weights of ViT-B-32; choose from ViT-B-32/openai"),
        ("ViT-B-32/mine", "names no weights of ViT-B-32"),
        ("hf://nobody/nothing", "cannot be read .*; check the name and the network, or give a folder"),
        ("ViT-B-32/datacomp_xl_s13b_b90k", "cannot be read .*network"),
    ],
)
def test_an_open_clip_model_that_is_not_there(name, message):
    with pytest.raises(FggError, match=rf"model\.zero_shot\.open_clip: '{name}' {message}"):
        zero_shot.open_clip_model(name)


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "no config", "bad config", "other config"])
def test_a_damaged_open_clip_folder(tmp_path, damage):
    fixture.write_clip(tmp_path)
    weights, config = tmp_path / fixture.WEIGHTS, tmp_path / "open_clip_config.json"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no config":
        config.unlink()
    elif damage == "bad config":
        config.write_text("{")
    else:
        config.write_text(config.read_text().replace('"width": 24', '"width": 32'))
    with pytest.raises(FggError, match=r"model\.zero_shot\.open_clip: .* cannot be read \("):
        zero_shot.open_clip_model(str(tmp_path))


def test_an_attack_in_an_open_clip_folder_does_not_run(tmp_path):
    marker = tmp_path / "marker"

    class Danger:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    clip = fixture.write_clip(tmp_path)
    (tmp_path / fixture.WEIGHTS).unlink()
    torch.save({"state_dict": clip.state_dict(), "x": Danger()}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(FggError, match=r"model\.zero_shot\.open_clip: .* cannot be read \("):
        zero_shot.open_clip_model(str(tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "train"}, r"model\.weights: 'train' does not work with zero_shot"),
        ({"weights": "none.safetensors"}, r"model\.weights: none\.safetensors does not exist"),
        ({"kwargs": fixture.KWARGS | {"depth": 3}}, r"unexpected: blocks\.3"),
        ({"kwargs": fixture.KWARGS | {"patch_size": 4}}, r"patch_embed\.proj\.weight.*see model\.kwargs\.patch_size"),
        ({"kwargs": fixture.KWARGS | {"act_layer": "quick_gelu"}}, "has gelu in its image tower.*act_layer to gelu"),
    ],
    ids=str,
)
def test_a_tower_that_does_not_fit(made, changes, message, tmp_path):
    fixture.write_clip(tmp_path)
    with pytest.raises(FggError, match=message):
        zero_shot.build(settings(tmp_path) | changes, CLASSES)


def test_a_tower_for_larger_images_is_resampled(made, tmp_path, capsys):
    fixture.write_clip(tmp_path)
    own = settings(tmp_path) | {"kwargs": fixture.KWARGS | {"img_size": 64}}
    assert zero_shot.build(own, CLASSES)[0].patch_embed.grid_size == (8, 8)
    assert "resampled from a grid of 4 x 4 to 8 x 8" in capsys.readouterr().err


def test_a_tower_of_another_clip_is_told(tmp_path, capsys):
    fixture.write_clip(tmp_path / "a", seed=1)
    fixture.write_clip(tmp_path / "b", seed=2)
    own = settings(tmp_path / "a") | {"weights": str(tmp_path / "b" / fixture.WEIGHTS)}
    _, record = zero_shot.build(own, CLASSES)
    assert record["tower_difference"] > 0.1
    assert "are not those of" in capsys.readouterr().err


def test_a_pretrained_tower_of_another_embedding(tmp_path, monkeypatch):
    fixture.write_clip(tmp_path)
    load = zero_shot.load_model
    monkeypatch.setattr(zero_shot, "load_model", lambda a, k, *_, **__: load(a, k))
    with pytest.raises(FggError, match="gives embeddings of size 512, but the text tower of size 16"):
        zero_shot.build(settings(tmp_path) | {"weights": "pretrained"}, CLASSES)


def test_open_clip_with_a_timm_tower(tmp_path):
    """open_clip's other form: timm's tower inside, with a projection beside it."""
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    theirs = open_clip.CustomTextCLIP(**config).eval()
    save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, tmp_path / fixture.WEIGHTS)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config | {"custom_text": True}}))
    own = settings(tmp_path) | {"architecture": "test_vit", "kwargs": {}}
    ours, record = zero_shot.build(own, CLASSES)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(ours(images), their_logits(theirs, images, TEXTS, tmp_path), atol=1e-4)
    assert record["tower_difference"] < 1e-5
