"""Muon with matrices stacked by shape: the updates of PyTorch's Muon, one matrix at a time."""

import copy

import pytest
import torch
from torch import nn

from fgg.models import stacked_muon
from fgg.models.stacked_muon import StackedMuon, newton_schulz, stackable
from fgg.models.training import make_optimisers
from fgg.models.vit import load_model

CPU = torch.device("cpu")
SHAPES = [(24, 24), (48, 24), (24, 48), (24, 24), (7, 3), (24, 48), (1, 5)]
needs_products = pytest.mark.skipif(
    not stackable(CPU), reason="PyTorch emulates products in bfloat16 on this processor"
)


def matrices():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(params, step):
    """Gradients of very different sizes; some are missing in one of the steps."""
    generator = torch.Generator().manual_seed(step)
    for index, param in enumerate(params):
        size = 10.0 ** (3 * (index % 4) - 7)
        missing = step == 1 and index in (1, 3)
        param.grad = None if missing else size * torch.randn(param.shape, generator=generator)


@needs_products
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_as_one_matrix_at_a_time(nesterov, scale):
    """Up to a few roundings to bfloat16, whose order may differ between a processor's kernels."""
    theirs, ours = matrices(), matrices()
    options = {"lr": 0.01, "weight_decay": 0.05, "nesterov": nesterov, "adjust_lr_fn": scale}
    optimisers = torch.optim.Muon(theirs, **options), StackedMuon(ours, **options)
    for step in range(4):
        for params, optimiser in zip((theirs, ours), optimisers, strict=True):
            give_gradients(params, step)
            optimiser.step()
        for one, other, start in zip(theirs, ours, matrices(), strict=True):
            assert (one - other).norm() <= 0.02 * (one - start).norm(), (step, one.shape)
    states = [optimiser.state_dict() for optimiser in optimisers]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for index, state in states[0]["state"].items():
        assert torch.equal(state["momentum_buffer"], states[1]["state"][index]["momentum_buffer"])


@needs_products
@pytest.mark.parametrize("shape", [(24, 48), (48, 24), (16, 16)])
def test_singular_values_are_near_one(shape):
    found = newton_schulz(
        torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)), (3.4445, -4.775, 2.0315), 5, 1e-7
    )
    assert found.shape == (3, *shape) and found.dtype == torch.bfloat16
    values = torch.linalg.svdvals(found.float())
    assert values.min() > 0.2 and values.max() < 1.4


def test_the_value_of_a_closure_is_returned():
    (param,) = params = [nn.Parameter(torch.ones(4, 4))]
    optimiser = StackedMuon(params, lr=0.1)

    def closure():
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimiser.step(closure) == 16 and not torch.equal(param, torch.ones(4, 4))


def test_where_it_is_used(defaults, monkeypatch):
    model = load_model(
        "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    )
    settings = {**defaults["model"]["train"], "muon_learning_rate": 0.003}
    assert type(make_optimisers(model, settings)[1]) is (StackedMuon if stackable(CPU) else torch.optim.Muon)
    assert not stackable(torch.device("cuda"))
    monkeypatch.setattr(stacked_muon, "_adjusted", None)  # as if PyTorch's function had moved
    assert type(make_optimisers(copy.deepcopy(model), settings)[1]) is torch.optim.Muon
