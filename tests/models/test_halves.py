"""Training in halves: PyTorch's own gradients and trained models, and models that leave as they came."""

import contextlib
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from fgg.models import halves, onednn_training, training
from fgg.models.halves import side_by_side
from fgg.models.onednn_training import available, fast_training, product
from fgg.models.training import train
from fgg.models.vit import load_model

ARCHITECTURE = "vit_tiny_patch16_224"
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
DROPPED = {"patch_drop_rate": 0.5, "drop_path_rate": 0.4}


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def made(**changes):
    torch.manual_seed(0)
    return load_model(ARCHITECTURE, KWARGS | changes, num_classes=3).train()


def images(number=4):
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def step(model, context, x=None):
    """Logits, the gradient of the images, and those of all parameters, for a batch in training mode."""
    x = (images() if x is None else x).clone().requires_grad_()
    torch.manual_seed(2)
    model.zero_grad()
    with context:
        logits = model(x)
        functional.cross_entropy(logits, torch.arange(len(x)) % 3).backward()
    return {"logits": logits.detach(), "images": x.grad} | {name: p.grad for name, p in model.named_parameters()}


def forwards(model):
    return {name: vars(module).get("forward") for name, module in model.named_modules()}


def threads_of(model):
    """The threads that have called the first block in a step."""
    found = set()
    norm = type(model.blocks[0].mlp.act)
    own = norm.forward

    def seen(self, x):
        found.add(threading.get_ident())
        return own(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norm, "forward", seen)
        step(model, side_by_side(model, 4))
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        DROPPED,
        {"global_pool": "avg", **DROPPED},
        {"qk_norm": True, "pre_norm": True},
        {"qkv_bias": False, "proj_bias": False},
        {"reg_tokens": 2, "num_heads": 3, "mlp_ratio": 4, "depth": 3},
    ],
    ids=lambda changes: ", ".join(changes) or "plain",
)
@pytest.mark.parametrize("onednn", [False, True])
def test_gradients_are_pytorchs(changes, onednn):
    model = made(**changes)
    assert len(threads_of(model)) == 2
    expected = step(model, contextlib.nullcontext())
    found = step(model, side_by_side(model, 4, onednn))
    assert found.keys() == expected.keys()
    largest = max(each.norm() for each in expected.values())
    for name, gradient in found.items():  # other processors may order the sums of undivided products in another way
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-6 * largest, name


def test_several_steps_with_batches_of_several_lengths():
    """Memory for a batch is kept for the next one, which may have other tokens."""
    model = made(patch_drop_rate=0.5)
    batches = [(4, 0.5), (4, 0.0), (2, 0.0), (4, 0.5)]
    found = []
    for context in (contextlib.nullcontext(), side_by_side(model, 4)):
        steps = []
        with context:
            for number, share in batches:
                model.patch_drop.prob = share
                steps.append(step(model, contextlib.nullcontext(), images(number)))
        found.append(steps)
    for expected, own in zip(*found, strict=True):
        for name, gradient in own.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_trained_model(seed, monkeypatch):
    settings = {
        "epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "muon_learning_rate": 3e-3, "weight_decay": 0.05,
        "warmup": 0.1, "label_smoothing": 0.1, "patch_drop": 0.5, "full_epochs": 1, "drop_path": 0.3, "flips": True,
        "shift": 2, "contrast": 0.2,
    }  # fmt: skip
    used = []

    def watched(model, batch, onednn):
        used.append(halves.divisible(model))
        return side_by_side(model, batch, onednn)

    def trained():
        return train(ARCHITECTURE, KWARGS, images(40), torch.arange(40) % 3, 3, settings, seed)

    monkeypatch.setattr(training, "side_by_side", watched)
    (one, history), (again, repeated) = trained(), trained()
    assert used == [True] * 6 and history == repeated and torch.get_num_threads() == 2
    assert all(torch.equal(one.state_dict()[name], value) for name, value in again.state_dict().items())
    monkeypatch.setattr(training, "side_by_side", lambda *_: contextlib.nullcontext())
    plain, _ = trained()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def replaced(model):
    model.blocks[0].mlp.fc1.forward = lambda x: functional.linear(x, model.blocks[0].mlp.fc1.weight)


OTHER_MODELS = {
    "hook": lambda model: model.blocks[0].norm1.register_forward_hook(lambda *_: None),
    "hook on the way back": lambda model: model.blocks[1].register_full_backward_hook(lambda *_: None),
    "dropout": lambda model: setattr(model.blocks[0].mlp.drop1, "p", 0.1),
    "frozen": lambda model: model.blocks[0].norm1.weight.requires_grad_(False),
    "double": lambda model: model.double(),
    "replaced": replaced,
    "checkpointing": lambda model: model.set_grad_checkpointing(True),
    "unfused": lambda model: setattr(model.blocks[0].attn, "fused_attn", False),
    "own activation": lambda model: setattr(model.blocks[1].mlp, "act", nn.SiLU()),
}


@pytest.mark.parametrize("case", [*OTHER_MODELS, "layer scale", "odd", "one thread"])
def test_other_cases_are_left_to_pytorch(case):
    model = made(**({"init_values": 0.1} if case == "layer scale" else {}))
    OTHER_MODELS.get(case, lambda _: None)(model)
    before = forwards(model)
    threads = 1 if case == "one thread" else 2
    torch.set_num_threads(threads)
    with side_by_side(model, 3 if case == "odd" else 4):
        assert forwards(model) == before and torch.get_num_threads() == threads


def test_large_models_are_left_to_pytorch(monkeypatch):
    model = made()  # two blocks, 17 tokens, 24 wide
    kept = 2 * 17 * (24 + 72 + 24 + 24 + 24 + 48 + 48 + 24)
    for most, divided in ((4 * kept, True), (4 * kept - 1, False)):
        monkeypatch.setattr(halves, "MOST_FLOATS", most)
        with side_by_side(model, 4):
            assert ("forward" in vars(model.blocks)) == divided


def test_a_batch_without_halves_is_an_error():
    model = made()
    with side_by_side(model, 4), pytest.raises(ValueError, match="3 images"):
        model(images(3))


def test_a_model_with_onednns_products_is_left_as_it_is():
    model = made()
    with fast_training(model, True):
        before = forwards(model)
        with side_by_side(model, 4):
            assert forwards(model) == before


@pytest.mark.skipif(not available(), reason="PyTorch without oneDNN")
def test_onednn_forms_all_products_of_the_blocks_when_told(monkeypatch):
    model, seen = made(), []

    def counted(x, weight, bias=None):
        seen.append(tuple(x.shape))
        return product(x, weight, bias)

    monkeypatch.setattr(halves, "product", counted)
    monkeypatch.setattr(onednn_training, "product", counted)
    step(model, side_by_side(model, 4, True))
    assert len(seen) == 4 * 2 * (2 + 2 + 1)  # layers of two blocks: both halves there and back, and the weights once
    seen.clear()
    step(model, side_by_side(model, 4))
    assert not seen


def test_the_model_is_as_before_after_an_error():
    model = made(**DROPPED)
    with pytest.raises(KeyError), side_by_side(model, 4):
        assert torch.get_num_threads() == 1
        assert all("forward" in vars(part) for part in (model.blocks, model.norm, model.blocks[1].mlp.fc2))
        raise KeyError
    assert not any(forwards(model).values()) and torch.get_num_threads() == 2


@pytest.mark.parametrize("here", [True, False])
def test_an_error_of_either_thread_is_raised(here, monkeypatch):
    model = made()
    own, main = functional.layer_norm, threading.get_ident()

    def failing(*arguments):
        if (threading.get_ident() == main) == here:
            raise MemoryError("no room")
        return own(*arguments)

    with side_by_side(model, 4):
        monkeypatch.setattr(functional, "layer_norm", failing)
        with pytest.raises(MemoryError, match="no room"):
            model.blocks(torch.randn(4, 17, 24))
    monkeypatch.undo()
    assert len(threads_of(model)) == 2


def test_only_the_last_batch_can_go_back():
    model = made()
    with side_by_side(model, 4):
        first, second = model(images()).sum(), model(images()).sum()
        with pytest.raises(RuntimeError, match="last batch"):
            first.backward()
        second.backward()
