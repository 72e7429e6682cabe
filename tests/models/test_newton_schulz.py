"""Muon's iteration in float32 with rounding is that in bfloat16, and is used only where products are emulated."""

import pytest
import torch
from torch.optim import _muon

from fgg.models import newton_schulz

THEIRS = _muon._zeropower_via_newtonschulz
SETTINGS = ((3.4445, -4.775, 2.0315), 5, 1e-7)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_as_torch_computes_it(shape):
    """Up to a few roundings, whose order within a product differs."""
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = (each(grad, *SETTINGS) for each in (newton_schulz.newton_schulz, THEIRS))
    assert ours.dtype == theirs.dtype == torch.bfloat16 and ours.shape == theirs.shape
    assert float((ours.float() - theirs.float()).norm() / theirs.float().norm()) < 0.02
    values = torch.linalg.svdvals(ours.float())
    assert values.min() > 0.5 and values.max() < 1.5


@pytest.mark.parametrize("needed", [True, False])
def test_the_exchange_is_undone(needed, monkeypatch):
    monkeypatch.setattr(newton_schulz, "emulated", lambda device: needed)
    with pytest.raises(KeyError), newton_schulz.fast_newton_schulz(torch.device("cpu")):
        assert (_muon._zeropower_via_newtonschulz is newton_schulz.newton_schulz) == needed
        raise KeyError
    assert _muon._zeropower_via_newtonschulz is THEIRS


def test_without_the_function_nothing_changes(monkeypatch):
    monkeypatch.setattr(newton_schulz, "emulated", lambda device: True)
    monkeypatch.delattr(_muon, newton_schulz.NAME)
    with newton_schulz.fast_newton_schulz(torch.device("cpu")):
        assert not hasattr(_muon, newton_schulz.NAME)
