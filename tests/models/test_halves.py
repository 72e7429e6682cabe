"""Training in halves: PyTorch's own gradients and trained models, and models that leave as they came."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional

from fgg.models import halves, training, training_products
from fgg.models.halves import side_by_side
from fgg.models.onednn_training import fast_training
from fgg.models.training import train
from fgg.models.training_products import available
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
        {"class_token": False, "global_pool": "avg"},
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
    check_close(found, expected)


@pytest.mark.parametrize("classes", [4, 10])
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_bytes_of_the_default_models_steps(classes, share):
    """Where the number of threads changes no product's bytes, as on AMD EPYCs, halves change no gradient's bytes."""
    torch.manual_seed(0)
    kwargs = {
        "img_size": 80,
        "embed_dim": 96,
        "num_heads": 3,
        "depth": 2,
        "drop_path_rate": 0.2,
        "patch_drop_rate": share,
    }
    model = load_model(ARCHITECTURE, KWARGS | kwargs, num_classes=classes).train()
    x = torch.randn(32, 3, 80, 80)
    expected, found = (step(model, context, x) for context in (contextlib.nullcontext(), side_by_side(model, 32)))
    check_close(found, expected)
    rows = torch.randn(32 * (101 if share == 0 else 51), 288)
    if one_thread_gives_the_same(lambda: [rows.t().mm(rows[:, :96]), rows[:, :192].t().mm(rows[:, :96])]):
        assert not [name for name in expected if not torch.equal(found[name], expected[name])]


def one_thread_gives_the_same(compute):
    two = compute()
    torch.set_num_threads(1)
    one = compute()
    torch.set_num_threads(2)
    return all(torch.equal(*each) for each in zip(one, two, strict=True))


def check_close(found, expected):
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
        used.append(halves.divisible(model, batch))
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
    "block twice": lambda model: setattr(model, "blocks", nn.Sequential(model.blocks[0], model.blocks[0])),
    "layer twice": lambda model: setattr(model.blocks[1].attn, "proj", model.blocks[0].attn.proj),
    "compiled": lambda model: model.blocks[0].compile(backend="eager"),
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


PASSES = {
    "odd": lambda model: model(images(3)),
    "eval": lambda model: model.eval()(images()),
    "causal": lambda model: model(images(), is_causal=True),
    "block by block": lambda model: model.forward_intermediates(images())[0],
    "autocast": lambda model: autocast(model),
    "no gradient": torch.no_grad()(lambda model: model(images())),
    "inference": torch.inference_mode()(lambda model: model(images())),
    "another thread": lambda model: in_another_thread(lambda: model(images())),
}


def autocast(model):
    with torch.autocast("cpu", torch.bfloat16):
        return model(images())


def in_another_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.mark.parametrize("name", PASSES)
def test_other_passes_are_timms(name):
    """Also between the forward and the backward pass of a batch, whose gradients stay what they are."""
    model, other = made(**DROPPED), made(**DROPPED)
    expected = step(model, contextlib.nullcontext())
    with side_by_side(model, 4):
        for seed in (3, 4):
            torch.manual_seed(seed)
            found = PASSES[name](model)
            torch.manual_seed(seed)
            assert torch.equal(found, PASSES[name](other))
        model.train()
        torch.manual_seed(2)
        model.zero_grad()
        loss = functional.cross_entropy(model(images()), torch.arange(4) % 3)
        PASSES[name](model)
        loss.backward()
        found = {key: parameter.grad for key, parameter in model.named_parameters()}
    check_close(found, {key: value for key, value in expected.items() if key in found})


def test_weights_that_change_before_the_way_back_are_an_error():
    model = made()
    with side_by_side(model, 4):
        loss = model(images()).sum()
        with torch.no_grad():
            model.blocks[0].mlp.fc1.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_parameters_that_are_replaced_later_get_gradients():
    model = made()
    with side_by_side(model, 4):
        model.blocks[0].mlp.fc1.weight = nn.Parameter(model.blocks[0].mlp.fc1.weight.detach().clone())
        model.blocks[1].norm1.bias = nn.Parameter(model.blocks[1].norm1.bias.detach().clone())
        found = step(model, contextlib.nullcontext())
    check_close(found, step(made(), contextlib.nullcontext()))


def test_a_model_with_onednns_products_is_left_as_it_is():
    model = made()
    with fast_training(model, True):
        before = forwards(model)
        with side_by_side(model, 4):
            assert forwards(model) == before


@pytest.mark.skipif(not available(), reason="PyTorch without oneDNN")
def test_onednn_forms_all_products_of_the_blocks_when_told(monkeypatch):
    model, seen, own = made(), [], training_products._PRODUCT

    def counted(x, *others):
        seen.append(tuple(x.shape))
        return own(x, *others)

    monkeypatch.setattr(training_products, "_PRODUCT", counted)
    step(model, side_by_side(model, 4, True))
    assert len(seen) == 4 * 2 * (2 + 2 + 1)  # layers of two blocks: both halves there and back, and the weights once
    seen.clear()
    step(model, side_by_side(model, 4))
    assert not seen


def test_the_model_is_as_before_after_an_error():
    model = made(**DROPPED)
    with pytest.raises(KeyError), side_by_side(model, 4):
        assert all(
            "forward" in vars(part) for part in (model.blocks, model.blocks[1].drop_path2, model.blocks[1].mlp.fc2)
        )
        raise KeyError
    assert not any(forwards(model).values()) and torch.get_num_threads() == 2


@pytest.mark.parametrize("here", [True, False])
def test_an_error_of_either_thread_is_raised(here, monkeypatch):
    model = made()
    own, main = functional.layer_norm, threading.get_ident()

    def failing(*arguments):
        if threading.get_ident() != main:
            raise MemoryError("no room")
        if here:
            raise KeyboardInterrupt  # goes before an error of the other thread
        return own(*arguments)

    with side_by_side(model, 4):
        monkeypatch.setattr(functional, "layer_norm", failing)
        with pytest.raises(KeyboardInterrupt if here else MemoryError):
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
