"""A small model, its weights under other names, and how loading them ends; for the tests of checkpoints."""

import pytest
import torch

from fgg.errors import FggError
from fgg.models.vit import load_model

ARCHITECTURE = "vit_tiny_patch16_224"
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2}


def make(seed=1, classes=3, **changes):
    torch.manual_seed(seed)
    model = load_model(ARCHITECTURE, KWARGS | changes, None, classes)
    model.load_state_dict({name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()})
    return model


def load(path, key=None, **changes):
    return load_model(ARCHITECTURE, KWARGS | changes, path, 3, key)


def same(path, state, key=None, **changes):
    own = load(path, key, **changes).state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


def refusal(path, key=None, **changes):
    with pytest.raises(FggError) as error:
        load(path, key, **changes)
    text = str(error.value)
    assert (
        text.startswith("model.weights: ") and str(path.name).split("-")[0].split("*")[0] in text and "\n" not in text
    )
    return text


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}
