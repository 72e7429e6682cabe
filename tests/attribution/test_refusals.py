"""What cannot be done is refused by an FggError that names the thing."""

import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock, ResPostBlock
from zoo import method_options

import fgg
from fgg.errors import FggError
from fgg.models.capture import capture


@pytest.fixture
def call(plain, pictures, saes):
    """A function: options of fgg.attribute -> the call."""

    def attribute(images=pictures, model=plain, **options):
        return fgg.attribute(model, images, **{"saes": saes} | options)

    return attribute


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"method": "lime"}, r"'lime'.*transmm"),
        ({"control": "sharpened"}, "'sharpened' needs a gate"),
        ({"gate": fgg.Gate((0,)), "control": "blurred"}, r"'blurred'.*permuted_gate.*sharpened"),
        ({"gate": fgg.Gate((0,)), "method": "random"}, r"'random' has no place for a gate.*transmm"),
        ({"method": "cue_map"}, r"'cue_map' reads the masks of a dataset"),
        ({"gate": fgg.Gate((4,), "no_sae")}, "layer 4 is beyond the model's depth 4"),
        ({"gate": fgg.Gate((-1,), "no_sae")}, "layer -1 is beyond the model's depth 4"),
        ({"gate": fgg.Gate((0, 2))}, r"layer 2.*'combined' needs an SAE"),
        ({"gate": fgg.Gate((0,), "gradient_only"), "saes": None}, r"layer 0.*'gradient_only' needs an SAE"),
        ({"gate": fgg.Gate((0,), "activation_only"), "saes": {}}, r"layer 0.*'activation_only' needs an SAE"),
        ({"target": 5}, "target must hold one class from 0 to 4"),
        ({"target": -1}, "target must hold one class from 0 to 4"),
        ({"target": torch.tensor([0, 1, 2, 5])}, "target must hold one class from 0 to 4"),
        ({"target": torch.tensor([0.0, 1.0, 2.0, 3.0])}, "target must hold one class"),
        ({"image_ids": ["a"]}, "1 image_ids for 4 images"),
    ],
)
def test_wrong_options(options, names, call):
    with pytest.raises(FggError, match=names):
        call(**options)


@pytest.mark.parametrize("target", [torch.tensor([0, 1]), torch.zeros(4, 1, dtype=torch.long)])
def test_a_target_of_the_wrong_length(target, call):
    with pytest.raises(FggError, match="target"):
        call(target=target)


@pytest.mark.parametrize("method", ["transmm", "random"])
@pytest.mark.parametrize(
    ("images", "names"),
    [
        (torch.zeros(2, 1, 32, 32), "1 channels, but the model takes 3"),
        (torch.zeros(2, 3, 24, 32), r"\(24, 32\), but the model takes \(32, 32\)"),
        (torch.zeros(3, 32, 32), r"\(B, C, H, W\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), r"float.*torch.uint8"),
        (torch.full((2, 3, 32, 32), float("nan")), "not finite"),
    ],
)
def test_wrong_images(method, images, names, call):
    with pytest.raises(FggError, match=names):
        call(images, method=method, image_ids=["a"] * len(images))


@pytest.mark.parametrize("construction", ["combined", "activation_only", "gradient_only"])
def test_an_sae_of_another_width(construction, call, make_sae):
    with pytest.raises(FggError, match=r"layer 1 has width 16, but the model's residual stream has 24"):
        call(gate=fgg.Gate((1,), construction), saes={1: make_sae(0, width=16)})


def test_an_sae_that_names_another_layer(call, make_sae):
    sae = make_sae(0)
    sae.cfg.metadata.hook_name = "blocks.0.hook_resid_post"
    with pytest.raises(FggError, match=r"layer 1 was trained on blocks\.0\.hook_resid_post, .* its own layer"):
        call(gate=fgg.Gate((1,)), saes={1: sae})


def test_a_gate_without_sae_needs_none(call):
    assert call(gate=fgg.Gate((0,), "no_sae"), saes=None).relevance.isfinite().all()


@pytest.mark.parametrize("method", method_options())
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value, method, make_model, pictures):
    model = make_model()
    with torch.no_grad():
        model.blocks[1].attn.qkv.weight[3, 3] = value
    with pytest.raises(FggError, match="logits are not finite"):
        fgg.attribute(model, pictures, method)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"layers": ()}, r"gate.layers"),
        ({"layers": (1, 1)}, r"gate.layers.*\(1, 1\)"),
        ({"construction": "sum"}, r"gate.construction: 'sum'.*combined"),
        ({"clamp_max": 1.0}, r"gate.clamp_max: 1.0"),
        ({"clamp_max": float("nan")}, r"gate.clamp_max: nan"),
        ({"alpha": 0.0}, r"gate.alpha: 0.0"),
        ({"construction": "no_sae", "shuffle_decoder": True}, "gate.shuffle_decoder"),
    ],
)
def test_gates_that_cannot_be(options, names):
    with pytest.raises(FggError, match=names):
        fgg.Gate(**{"layers": (1,)} | options)


def test_a_gates_layers_are_sorted():
    assert fgg.Gate([2, 0]) == fgg.Gate((0, 2))


@pytest.mark.parametrize("where", ["layers", "gradients"])
def test_capture_beyond_the_depth(where, plain, pictures):
    with pytest.raises(FggError, match="layer 7 is beyond the model's depth 4"):
        capture(plain, pictures, **{where: [7]})


def test_gradcam_needs_two_blocks(make_model, pictures):
    with pytest.raises(FggError, match="depth 1"):
        fgg.attribute(make_model(depth=1), pictures, "gradcam")


def test_tokentm_says_which_blocks_it_does_not_know(make_model, pictures):
    with pytest.raises(FggError, match="ResPostBlock"):
        fgg.attribute(make_model(block_fn=ResPostBlock), pictures, "tokentm")


@pytest.mark.parametrize("method", ["random", "transmm"])
def test_blocks_whose_attention_is_their_own(method, make_model, pictures):
    """`attention_module` knows them: their attention's dropout is the block's."""
    model = make_model(block_fn=ParallelScalingBlock)
    assert fgg.attribute(model, pictures, method).relevance.shape == (4, 16)


def test_blocks_without_one_attention(make_model, pictures):
    with pytest.raises(FggError, match="ParallelThingsBlock"):
        fgg.attribute(make_model(block_fn=ParallelThingsBlock), pictures, "legrad")


def test_layers_of_a_gate():
    assert fgg.Gate(2).layers == (2,) and fgg.Gate(layers=[2, 0]).layers == (0, 2)
    assert fgg.Gate(torch.arange(2).numpy()).layers == (0, 1)
    for wrong in ("12", 1.5, None, [True], [0, "1"]):
        with pytest.raises(FggError, match=r"gate\.layers: .* must be a whole number from 0 or several, such as 2 or"):
            fgg.Gate(wrong)


@pytest.mark.parametrize("metric", [fgg.saco, fgg.pixel_flipping, fgg.faithfulness_correlation])
def test_the_help_of_a_metric_says_everything(metric):
    text = metric.__doc__
    assert all(f"    {name}: " in text for name in metric.__annotations__ if name != "return")
    for part in ("From ", "Returns:", "Raises:", "FggError", "(B, N)", "is better"):
        assert part in text, part
