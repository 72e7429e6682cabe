"""Whatever is called, and however it ends, the model leaves as it came; and training mode changes no number."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from zoo import method_options

import fgg
from fgg.attribution.attribute import attribute
from fgg.errors import FggError
from fgg.models.capture import capture
from fgg.models.layer_diagnosis import diagnose

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called",
)  # fmt: skip
GATE = fgg.Gate((0, 1))


def state(model):
    """Everything about a model that a call could change."""
    return {
        "hooks": {name: [len(getattr(m, kind)) for kind in HOOKS] for name, m in model.named_modules()},
        "training": {name: module.training for name, module in model.named_modules()},
        "fused": {name: module.fused_attn for name, module in model.named_modules() if hasattr(module, "fused_attn")},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "requires": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: p.grad is not None for name, p in model.named_parameters()},
        "values": {name: value.clone().numpy().tobytes() for name, value in model.state_dict().items()},
    }


@pytest.fixture
def messy(make_model):
    """A model in the middle of its life: training, partly frozen, attention fused here and not there."""
    model = make_model(depth=4, proj_drop_rate=0.3, attn_drop_rate=0.3, pos_drop_rate=0.3, drop_path_rate=0.3)
    model.train()
    model.blocks[1].eval()
    model.head.weight.requires_grad_(False)
    model.blocks[2].mlp.requires_grad_(False)
    model.blocks[0].attn.fused_attn = False
    model.blocks[1].attn.fused_attn = True
    model.blocks[2].attn.attn_drop.register_forward_hook(lambda *_: None)
    return model


def subsets(count=4):
    return torch.from_numpy(fgg.draw_subsets([str(i) for i in range(count)], 16, 1, 6, 4, 0)[:, 0])


CALLS = {
    **{
        m: lambda model, images, saes, m=m, own=own: attribute(model, images, m, **own).relevance
        for m, own in method_options().items()
    },
    "gated": lambda model, images, saes: attribute(model, images, gate=GATE, saes=saes).relevance,
    "no_sae": lambda model, images, saes: attribute(model, images, gate=fgg.Gate((0,), "no_sae")).relevance,
    "permuted": lambda model, images, saes: (
        attribute(model, images, gate=GATE, saes=saes, control="permuted_gate").relevance
    ),
    "capture": lambda model, images, saes: capture(model, images, cams=True, layers=[0]).logits,
    "diagnose": lambda model, images, saes: torch.tensor([r["survives"] for r in diagnose(model, images)[:2]]),
    "saco": lambda model, images, saes: fgg.saco(model, images, rows()),
    "flipping": lambda model, images, saes: fgg.pixel_flipping(model, images, rows(), protocol="thesis").curve,
    "correlation": lambda model, images, saes: fgg.faithfulness_correlation(model, images, rows(), subsets=subsets()),
}


def rows():
    return torch.rand(4, 16, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("call", CALLS)
def test_a_call_changes_nothing(call, messy, pictures, saes):
    """Neither the model nor the SAEs nor the images nor the global random state; and dropout is off inside."""
    before, codes, clean = state(messy), {k: state(s) for k, s in saes.items()}, pictures.clone()
    random, python = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trained = CALLS[call](messy, pictures, saes)
    assert state(messy) == before
    assert {k: state(s)["values"] for k, s in saes.items()} == {k: s["values"] for k, s in codes.items()}
    assert {k: state(s)["hooks"] for k, s in saes.items()} == {k: s["hooks"] for k, s in codes.items()}
    assert torch.equal(pictures, clean)
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == python).all()  # noqa: NPY002
    quiet = copy.deepcopy(messy).eval().requires_grad_(False)
    torch.testing.assert_close(trained, CALLS[call](quiet, pictures, saes), rtol=1e-4, atol=1e-6)
    assert torch.is_grad_enabled()


class Broken(nn.Module):
    """A part of a model that fails when it is reached."""

    def forward(self, *_inputs):
        raise ArithmeticError("this part is broken")


def broken_block(model):
    model.blocks[2].mlp = Broken()


def broken_head(model):
    model.head = Broken()


def not_finite(model):
    with torch.no_grad():
        model.blocks[3].mlp.fc1.weight[0, 0] = float("nan")


@pytest.mark.parametrize("fault", [broken_block, broken_head, not_finite])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_changes_nothing(call, fault, messy, pictures, saes):
    fault(messy)
    before = state(messy)
    with pytest.raises(FggError if fault is not_finite else ArithmeticError, match=r"not finite|broken"):
        CALLS[call](messy, pictures, saes)
    assert state(messy) == before
    assert torch.is_grad_enabled()


def test_an_sae_that_fails_changes_nothing(messy, pictures, saes):
    class Fails:
        W_dec = saes[0].W_dec
        encode = Broken()

    before = state(messy)
    with pytest.raises(ArithmeticError):
        attribute(messy, pictures, gate=GATE, saes={0: Fails(), 1: saes[1]})
    assert state(messy) == before


def test_a_wrong_target_changes_nothing(messy, pictures):
    before = state(messy)
    with pytest.raises(FggError):
        attribute(messy, pictures, target=99)
    assert state(messy) == before


def test_gradients_of_a_training_loop_are_kept(messy, pictures, saes):
    messy(pictures).sum().backward()
    kept = {name: p.grad.clone() for name, p in messy.named_parameters() if p.grad is not None}
    assert kept
    for call in CALLS.values():
        call(messy, pictures, saes)
    for name, gradient in kept.items():
        assert torch.equal(messy.get_parameter(name).grad, gradient)


def test_images_that_want_gradients(plain, pictures):
    """Images that are being optimised give the same numbers, without a graph behind them."""
    wanting = pictures.clone().requires_grad_()
    out = attribute(plain, wanting, image_ids=list("abcd"))
    assert torch.equal(out.relevance, attribute(plain, pictures).relevance)
    for value in (out.relevance, out.logits, fgg.saco(plain, wanting, rows())):
        assert not value.requires_grad


def test_images_that_want_gradients_get_none(plain, pictures):
    wanting = pictures.clone().requires_grad_()
    attribute(plain, wanting, image_ids=list("abcd"))
    assert wanting.grad is None


def test_images_that_want_gradients_need_no_names(plain, pictures):
    attribute(plain, pictures.clone().requires_grad_())


def test_inside_inference_mode(plain, pictures):
    with torch.inference_mode():
        attribute(plain, pictures)
