"""Every method on every kind of model: its map equals a slow computation, or one message names method and model."""

import families
import numpy as np
import pytest
import slow_family_maps as slow
import torch
from families import FAMILIES, make_family, slow_forward
from timm.models.vision_transformer import VisionTransformer
from zoo import make_sae, method_options

import fgg
from fgg.attribution import perturbed
from fgg.attribution.registry import methods
from fgg.errors import FggError
from fgg.models.capture import capture
from fgg.models.vit import readout
from fgg.perturbation.engine import Perturber

TARGETS = torch.tensor([3, 1])
RULES = {"attnlrp", "libragrad", "libragrad_fullgrad_plus", "chefer_lrp", "tokentm"}
DISTILLED = [name for name in FAMILIES if name.startswith("distilled")]
POST_NORM = {"post-norm", "eva-post-norm", "relpos-shared-post-norm"}
SIDE_BY_SIDE = {"parallel-things", "parallel-scaling", "differential-parallel"}


def refused(family):
    """The methods that do not apply to a family."""
    if family in DISTILLED:
        return {"chefer_lrp"}
    found = set(RULES)
    if family in POST_NORM | SIDE_BY_SIDE:
        found |= {"gradcam_norm1"}
    if family == "parallel-things":
        found |= {"legrad"}
    return found


@pytest.fixture(scope="module")
def case():
    """A function: family -> model, images, and the slow computation of each image; each made once."""
    made = {}

    def give(family):
        if family not in made:
            model, images = make_family(family)
            made[family] = model, images, [slow_forward(model, image) for image in images]
        return made[family]

    return give


SLOW = {name: value for name, value in vars(slow).items() if name in methods()}
SAMPLING = {"rise", "kernel_shap"}  # their slow computation is the same samples on filled pixels
CONSTANT_NOISE = {"smoothgrad"}


@pytest.mark.parametrize("method", method_options())
@pytest.mark.parametrize("family", FAMILIES)
def test_each_method_on_each_kind(method, family, case, monkeypatch):
    model, images, seen = case(family)
    options = method_options()[method] | ({"noise": 0.0} if method in CONSTANT_NOISE else {})

    def run():
        return fgg.attribute(model, images, method, target=TARGETS, **options).relevance

    if method in refused(family):
        with pytest.raises(FggError, match=rf"^{method} (is not defined for|needs) .*(Block|Distilled)"):
            run()
        return
    found = run().double().numpy()
    assert found.shape == (2, model.patch_embed.num_patches) and np.isfinite(found).all()
    if method in SAMPLING:
        monkeypatch.setattr(perturbed, "Perturber", lambda model, images: Perturber(model, images, path="pixels"))
        np.testing.assert_allclose(found, run().double().numpy(), atol=2e-5)
        return
    if method in ("attnlrp", "libragrad", "libragrad_fullgrad_plus"):
        expected = half_of_each(model, images, method, options)
    elif method in methods() and methods()[method].role == "floor":
        return  # drawn at random, without the model
    else:
        for own, image in zip(seen, images, strict=True):
            own.image = image.double()
        own_map = SLOW["gradient_norm" if method in CONSTANT_NOISE else method]
        expected = np.stack([own_map(own, int(target)) for own, target in zip(seen, TARGETS, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))
    assert np.abs(expected).max() > 1e-6, "nothing to compare"


def half_of_each(model, images, method, options):
    """Maps of the two heads of a distilled model as plain models, whose token comes first; the rules are linear in the head."""
    found = 0
    state = model.state_dict()
    for first, second, head in (("cls_token", "dist_token", "head"), ("dist_token", "cls_token", "head_dist")):
        qk_norm = not isinstance(model.blocks[0].attn.q_norm, torch.nn.Identity)
        plain = VisionTransformer(
            **families.BASE | {"img_size": model.patch_embed.img_size, "qk_norm": qk_norm, "reg_tokens": 1}
        )
        own = {name: value for name, value in state.items() if not name.startswith(("head", "cls_", "dist_"))}
        place = own["pos_embed"]
        order = [0, 1] if first == "cls_token" else [1, 0]
        own["pos_embed"] = torch.cat([place[:, order], place[:, 2:]], 1)
        own |= {"cls_token": state[first], "reg_token": state[second]}
        own |= {f"head.{part}": state[f"{head}.{part}"] for part in ("weight", "bias")}
        plain.load_state_dict(own)
        found = found + fgg.attribute(plain.eval(), images, method, target=TARGETS, **options).relevance / 2
    return found.double().numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_residuals_and_gradients(family, case):
    model, images, seen = case(family)
    flags = {name: module.__dict__.get("fused_attn") for name, module in model.named_modules()}
    got = capture(
        model, images, TARGETS, cams=True, attention=True, last_attention=True, layers=(0, 1), input_gradient=True
    )
    for number, (own, target) in enumerate(zip(seen, TARGETS.tolist(), strict=True)):
        np.testing.assert_allclose(got.logits[number], own.logits.detach(), atol=1e-5)
        for layer, block in enumerate(slow.cams(own, target)):
            expected = sum(attention.mean(0) for attention, _ in block)
            np.testing.assert_allclose(got.attention[layer][number], expected, atol=1e-5)
        last = np.concatenate([slope for _, slope in slow.cams(own, target)[-1]])
        np.testing.assert_allclose(got.last_attention_gradient[number], last, atol=1e-5)
        for layer in (0, 1):
            slope = torch.autograd.grad(own.logits[target], own.tokens[layer + 1], retain_graph=True)[0]
            np.testing.assert_allclose(got.residuals[layer][number], own.tokens[layer + 1].detach(), atol=2e-5)
            np.testing.assert_allclose(got.gradients[layer][number], slope, atol=1e-5)
    np.testing.assert_allclose(readout(model, got.cams[0])[0], slow.row_of(seen[0]))
    # The model is left as it came.
    assert flags == {name: module.__dict__.get("fused_attn") for name, module in model.named_modules()}
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gate_at_the_residual_stream(family, case):
    """The gate's scores come from the outputs of the blocks, and multiply the patch columns of the slow computation."""
    model, images, seen = case(family)
    sae = make_sae(5)
    got = fgg.attribute(model, images, gate=fgg.Gate(0), saes={0: sae}, target=TARGETS)
    for number, (own, target) in enumerate(zip(seen, TARGETS.tolist(), strict=True)):
        expected = slow.transmm(own, target, {0: got.gates[0][number].double().numpy()})
        np.testing.assert_allclose(got.relevance[number], expected, atol=1e-5 * max(1, expected.max()))
        residual = own.tokens[1]
        slope = torch.autograd.grad(own.logits[target], residual, retain_graph=True)[0]
        codes = sae.encode(slow.patches(own, residual.detach()).float()).double()
        scores = (codes * (slow.patches(own, slope) @ sae.W_dec.double().detach().T)).sum(-1)
        np.testing.assert_allclose(got.scores[0][number], scores.detach(), atol=1e-4)


class Rewired(VisionTransformer):
    """Reads another token than the class token."""

    def forward_head(self, x, pre_logits=False):
        return self.head(x[:, 1])


def test_a_class_that_replaces_a_step_is_refused():
    model = Rewired(**families.BASE).eval()
    with pytest.raises(FggError, match=r"the model is a Rewired, which replaces forward_head of VisionTransformer"):
        fgg.attribute(model, torch.zeros(1, 3, 24, 24))
