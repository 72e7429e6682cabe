"""Folders of Hugging Face's transformers, and torchvision's weights: the logits are those of the original."""

import json

import pytest
import torch
import transformers
from torchvision.models import VisionTransformer as TorchVisionTransformer

from fgg.attribution.attribute import attribute
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.faithfulness.saco import saco
from fgg.models import build_model, model_files
from fgg.models.hugging_face import described
from fgg.models.vit import load_model, readout
from fgg.perturbation.engine import Perturber

BASE = "vit_base_patch16_224"
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "image_size": 32,
    "patch_size": 8,
}
KINDS = {
    "vit": (transformers.ViTConfig, transformers.ViTForImageClassification, {}),
    "vit, other activation": (
        transformers.ViTConfig,
        transformers.ViTForImageClassification,
        {"hidden_act": "gelu_new", "qkv_bias": False, "num_channels": 1, "layer_norm_eps": 1e-3},
    ),
    "deit": (transformers.DeiTConfig, transformers.DeiTForImageClassification, {}),
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2ForImageClassification, {"mlp_ratio": 2}),
    "registers": (
        transformers.Dinov2WithRegistersConfig,
        transformers.Dinov2WithRegistersForImageClassification,
        {"num_register_tokens": 3},
    ),
    "deit, two heads": (transformers.DeiTConfig, transformers.DeiTForImageClassificationWithTeacher, {}),
    "beit": (
        transformers.BeitConfig,
        transformers.BeitForImageClassification,
        {"use_relative_position_bias": True, "use_mean_pooling": True},
    ),
    "beit, class token": (
        transformers.BeitConfig,
        transformers.BeitForImageClassification,
        {"use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True, "use_mean_pooling": False}
        | {"layer_scale_init_value": 0.0},
    ),
}
ARCHITECTURES = {"deit, two heads": "deit_base_distilled_patch16_224", "beit": "beit_base_patch16_224", "beit, class token": "beit_base_patch16_224"}  # fmt: skip
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
LABELS = {0: "dog", 1: "cat", 2: "bird"}
PROCESSOR = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3, "do_normalize": True}


def theirs(kind, **changes):
    """A random model of transformers whose every parameter matters."""
    config, model, own = KINDS[kind]
    torch.manual_seed(3)
    made = model(config(**SIZES | own | {"id2label": LABELS, "label2id": {v: k for k, v in LABELS.items()}} | changes))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * (parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5))
    return made.eval()


def pictures(model, count=4):
    channels = model.patch_embed.proj.in_channels
    return torch.randn(count, channels, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(5))


def close(model, other):
    images = pictures(model)
    with torch.no_grad():
        return torch.allclose(model(images), other(images).logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder(tmp_path, kind):
    other = theirs(kind)
    other.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    for given in (tmp_path, tmp_path / "model.safetensors", str(tmp_path / "*.safetensors")):
        model = load_model(ARCHITECTURES.get(kind, BASE), {}, given)
        assert close(model, other)
        assert model.num_classes == 3 and model.pretrained_cfg["label_names"] == ["dog", "cat", "bird"]
        assert model.pretrained_cfg["mean"] == (0.1, 0.2, 0.3) and model.pretrained_cfg["interpolation"] == "bicubic"


@pytest.mark.parametrize("kind", ["vit", "registers"])
def test_a_sharded_folder(tmp_path, kind):
    other = theirs(kind)
    other.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*"))) > 2
    assert close(load_model(BASE, {}, tmp_path), other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_a_state_dict_as_it_is_in_memory(tmp_path, kind, prefix, capsys):
    """Version 5 names modules otherwise than its files do; no config.json lies beside it."""
    other, architecture = theirs(kind), ARCHITECTURES.get(kind, BASE)
    config, _, own = KINDS[kind]
    torch.save({"state_dict": {prefix + name: t for name, t in other.state_dict().items()}}, tmp_path / "w.pt")
    told = config(**SIZES | own, architectures=[type(other).__name__])
    told.save_pretrained(tmp_path / "other")
    kwargs = described(tmp_path / "other").kwargs
    usual = kwargs.pop("norm_eps")
    if "eps" not in "".join(own):
        assert close(load_model(architecture, kwargs, tmp_path / "w.pt", 3), other)
        assert "no config.json beside it" in capsys.readouterr().err
    assert close(load_model(architecture, kwargs | {"norm_eps": usual}, tmp_path / "w.pt", 3), other)


def test_swiglu_in_an_architecture_that_has_it(tmp_path):
    other = theirs("dinov2", use_swiglu_ffn=True, mlp_ratio=4)
    other.save_pretrained(tmp_path)
    hidden = other.state_dict()["dinov2.encoder.layer.0.mlp.down_proj.weight"].shape[1]
    model = load_model("vit_giant_patch14_dinov2", {"mlp_ratio": 2 * hidden / 24}, tmp_path)
    assert close(model, other)
    with pytest.raises(FggError, match="wrong shape"):
        load_model(BASE, {}, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 4}, r"model\.kwargs\.num_heads: 4, but .*config\.json says 3; leave it out"),
        ({"patch_size": 4}, r"model\.kwargs\.patch_size: 4"),
        ({"act_layer": "relu"}, ""),
    ],
)
def test_arguments_that_say_something_else(tmp_path, changes, message):
    theirs("vit", **({"hidden_act": "quick_gelu"} if not message else {})).save_pretrained(tmp_path)
    with pytest.raises(FggError, match=message or "model.kwargs.act_layer"):
        load_model(BASE, changes, tmp_path)
    assert load_model(BASE, {"patch_size": [8, 8], "num_heads": 3}, tmp_path).num_classes == 3


def test_another_size_resamples(tmp_path, capsys):
    theirs("vit").save_pretrained(tmp_path)
    assert load_model(BASE, {"img_size": 48}, tmp_path).patch_embed.grid_size == (6, 6)
    assert "resampled from a grid of 4 x 4 to 6 x 6" in capsys.readouterr().err


def test_another_number_of_classes(tmp_path):
    theirs("vit").save_pretrained(tmp_path)
    with pytest.raises(FggError, match="the number of classes is different"):
        load_model(BASE, {}, tmp_path, 5)


def test_what_is_not_read(tmp_path):
    deit = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**SIZES))
    deit.save_pretrained(tmp_path / "deit")
    with pytest.raises(FggError, match="the mean of two heads: choose a distilled architecture"):
        load_model(BASE, {}, tmp_path / "deit")
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(tmp_path / "bare")
    with pytest.raises(FggError, match=r"missing: head\.weight"):
        load_model(BASE, {}, tmp_path / "bare", 3)
    swin = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    transformers.SwinForImageClassification(swin).save_pretrained(tmp_path / "swin")
    with pytest.raises(FggError, match=r"of the type 'swin'; fgg reads vit, deit"):
        load_model(BASE, {}, tmp_path / "swin", 2)


@pytest.mark.parametrize("change", [{"num_hidden_layers": 10**9}, {"hidden_size": 10**6}, {"image_size": -1}])
def test_a_config_that_asks_for_too_much(tmp_path, change):
    theirs("vit").save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(told | change))
    with pytest.raises(FggError, match="sizes, which no model has"):
        load_model(BASE, {}, tmp_path)


def test_a_config_of_another_program(tmp_path):
    model = load_model(BASE, KWARGS, None, 3)
    torch.save(model.state_dict(), tmp_path / "best.pth")
    for content in ("{", "[]", '{"lr": 0.1}', '{"model_type": "swin"}'):
        (tmp_path / "config.json").write_text(content)
        assert torch.equal(load_model(BASE, KWARGS, tmp_path / "best.pth", 3).pos_embed, model.pos_embed)


def test_timms_own_folder(tmp_path):
    model = load_model(BASE, KWARGS, None, 3)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    known = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "label_names": ["a", "b", "c"]}
    told = {"architecture": BASE, "num_classes": 3, "model_args": KWARGS, "pretrained_cfg": known}
    (tmp_path / "config.json").write_text(json.dumps(told))
    found = load_model(BASE, {}, tmp_path)
    assert torch.equal(found.pos_embed, model.pos_embed) and found.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    assert found.pretrained_cfg["label_names"] == ["a", "b", "c"]


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "vit"}', '{"model_type": "vit", "hidden_size": "x"}'])
def test_a_damaged_config(tmp_path, content):
    theirs("vit").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(FggError, match=r"model\.weights: .*config\.json"):
        load_model(BASE, {}, tmp_path)


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({}, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
        ({"rescale_factor": 1 / 127.5}, (0.05, 0.1, 0.15), (0.2, 0.25, 0.3)),
        ({"image_mean": None}, None, (0.4, 0.5, 0.6)),
    ],
)
def test_mean_and_standard_deviation(tmp_path, changes, mean, std):
    theirs("vit").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | changes))
    found = described(tmp_path)
    assert found.std == pytest.approx(std) and (
        found.mean is None if mean is None else found.mean == pytest.approx(mean)
    )


@pytest.mark.parametrize("kind", ["dinov2", "registers"])
def test_a_head_on_class_token_and_patches_is_explained(tmp_path, kind):
    theirs(kind).save_pretrained(tmp_path)
    model = load_model(BASE, {}, tmp_path)
    images = pictures(model)
    row = readout(model, model.forward_features(images))
    prefix = model.num_prefix_tokens
    assert row[0, 0] == 0.5 and torch.allclose(row[:, prefix:], torch.tensor(0.5 / 16)) and not row[:, 1:prefix].any()
    out = attribute(model, images)
    assert out.relevance.shape == (4, 16) and out.relevance.isfinite().all()
    tokens, pixels = (Perturber(model, images, path=path) for path in ("tokens", "pixels"))
    masks = torch.rand(4, 5, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    assert torch.allclose(tokens.logits(masks), pixels.logits(masks), atol=1e-5)
    assert saco(model, images, out.relevance).isfinite().all()
    with pytest.raises(FggError, match="not defined for a head of type ClassAndPatchesHead"):
        attribute(model, images, "chefer_lrp")


def test_a_folder_in_the_workflow(tmp_path, data, model_settings, capsys):
    """Labels, mean and standard deviation come from the folder, and the model's folder gives the same logits."""
    other = theirs("registers", id2label=dict(enumerate(sorted(classes(data), reverse=True))))
    other.save_pretrained(tmp_path / "hub")
    (tmp_path / "hub" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    options = model_settings["model"] | {"architecture": BASE, "kwargs": {}, "weights": str(tmp_path / "hub")}
    record = build_model.build(data, model_settings | {"model": options}, tmp_path / "model")
    model, preprocess, _ = model_files.load(tmp_path / "model", torch.device("cpu"))
    assert preprocess == Preprocess((32, 32), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bicubic")
    images = pictures(model)
    with torch.no_grad():
        assert torch.allclose(model(images), other(images).logits.flip(1), atol=1e-5)
    told = capsys.readouterr().out
    assert record["kwargs"]["norm_eps"] == 1e-6 and "were put into the order of the dataset" in told
    assert record["preprocess_from"]["interpolation"] == str(tmp_path / "hub" / "preprocessor_config.json")
    assert "bicubic (" in told


def test_the_epsilon_of_the_norms_is_kept(tmp_path, data, model_settings):
    other = theirs("vit")
    torch.save(other.state_dict(), tmp_path / "w.pt")
    kwargs = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 52 / 24}
    options = model_settings["model"] | {"architecture": BASE, "kwargs": kwargs, "weights": str(tmp_path / "w.pt")}
    record = build_model.build(data, model_settings | {"model": options}, tmp_path / "model")
    assert record["kwargs"]["norm_eps"] == 1e-12
    assert close(model_files.load(tmp_path / "model", torch.device("cpu"))[0], other)


def classes(data):
    return json.loads((data / "dataset.json").read_text())["classes"]


@pytest.mark.parametrize("prefix", ["", "model."])
def test_torchvision(tmp_path, prefix):
    torch.manual_seed(0)
    other = TorchVisionTransformer(32, 8, 2, 3, 24, 48, num_classes=3).eval()
    torch.nn.init.normal_(other.heads.head.weight)
    torch.save({prefix + name: tensor for name, tensor in other.state_dict().items()}, tmp_path / "w.pth")
    model = load_model("vit_tiny_patch16_224", KWARGS, tmp_path / "w.pth", 3)
    images = pictures(model)
    with torch.no_grad():
        assert torch.allclose(model(images), other(images), atol=1e-5)
