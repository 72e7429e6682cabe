"""The libraries whose SAE files fgg reads, imported without what they need for language models or pictures."""

import importlib
import sys
import types
from importlib.machinery import ModuleSpec, PathFinder
from unittest import mock

import matplotlib
import matplotlib.cm
import pytest
import torch

from fgg.errors import FggError
from fgg.saes.sae import load_sae

# What dictionary_learning imports for language models.
ABSENT = ("nnsight", "zstandard")


def overcomplete():
    """overcomplete; its pictures ask matplotlib for a function that newer versions have under another name."""
    pytest.importorskip("torchvision")
    with mock.patch.object(matplotlib.cm, "get_cmap", matplotlib.colormaps.get_cmap, create=True):
        return importlib.import_module("overcomplete")


def dictionary_learning(module):
    """A module of dictionary_learning; the package itself would import a library that runs language models."""
    found = PathFinder.find_spec("dictionary_learning")
    if found is None:
        pytest.skip("dictionary_learning is not installed")
    if "dictionary_learning" not in sys.modules:
        package = types.ModuleType("dictionary_learning")
        package.__path__ = list(found.submodule_search_locations)
        package.__spec__ = found
        sys.modules["dictionary_learning"] = package
    missing = [name for name in ABSENT if name not in sys.modules and PathFinder.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
        sys.modules[name].LanguageModel = object
    try:
        return importlib.import_module(f"dictionary_learning.{module}")
    finally:
        for name in missing:
            del sys.modules[name]


WIDTH, FEATURES, LAYER = 24, 48, 1
LARGEST = 1e-5  # by which codes and reconstructions may differ from the peer's


def rows(count=40, scale=1.0, seed=2):
    """Activations (count, WIDTH)."""
    return scale * torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def fill(module, seed=3):
    """Random parameters of a module, biases and thresholds too; returns it."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    return module


def agree(ours, encode, decode, given=None):
    """Check that an SAE's codes, and what it makes of them, are those of the peer; the largest absolute differences.

    Args:
        ours: an SAE that fgg has read.
        encode, decode: the peer's functions.
        given: the activations (n, WIDTH).
    """
    given = rows() if given is None else given
    with torch.no_grad():
        theirs = encode(given)
        codes, again, wanted = ours.encode(given), ours.decode(theirs), decode(theirs)
        whole = ours.encode(given.reshape(2, -1, given.shape[1]))
    assert 0 < float((theirs != 0).float().mean()) < 1, "some codes are 0, and some are not"
    found = float((codes - theirs).abs().max()), float((again - wanted).abs().max())
    assert max(found) <= LARGEST, found
    assert torch.allclose(whole.reshape(codes.shape), codes, atol=LARGEST), "images as one batch"
    return found


def refusal(path):
    """The message with which fgg refuses an SAE; it names the path."""
    with pytest.raises(FggError) as error:
        load_sae(path)
    assert str(path) in str(error.value)
    return str(error.value)
