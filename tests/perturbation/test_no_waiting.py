"""On a GPU, the CPU waits for numbers only a fixed number of times, however many passes there are: counted here on the CPU."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fgg.attribution.attribute import attribute
from fgg.models import onednn_attention
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import Fill

# Operators whose result the CPU must know before it goes on, on whatever device.
WAITING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero", "equal", "item")


class Waits(TorchDispatchMode):
    """Counts operators that would make the CPU wait for tensors on a GPU; what is on the CPU on purpose does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__.strip("_")
        index = args[1] if name in ("index", "index_put") and len(args) > 1 else ()
        by_mask = any(isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in index)
        if by_mask or any(name.startswith(word.strip("_")) for word in WAITING):
            self.counted[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """The kernels of CPUs alone are switched off."""
    monkeypatch.setattr(onednn_attention, "_X86", False)


def waits(call) -> Counter[str]:
    with Waits() as mode:
        call()
    return mode.counted


def test_the_counter_counts():
    values = torch.arange(4.0)
    counted = waits(lambda: (bool(values.sum() > 2), values.nonzero(), values[values > 1], values.tolist()))
    assert counted["local_scalar_dense"] and counted["nonzero"] and counted["index"]


@pytest.mark.parametrize("kind", ["value", "image"])
def test_passes_of_the_engine_do_not_wait(make_model, make_images, kind):
    model = make_model()
    images = make_images(model)
    values = images.mean((1, 2, 3)) if kind == "value" else images.flip(0)
    counted = []
    for rows, versions in ((4, 2), (4, 64)):
        engine = Perturber(model, images, rows=rows).using(Fill("own", kind, values))
        masks = torch.rand(len(images), versions, engine.patches, generator=torch.Generator().manual_seed(0)) < 0.5
        counted.append(waits(lambda engine=engine, masks=masks: engine.logits(masks)))
    assert counted[0] == counted[1] and sum(counted[0].values()) < 8


def test_removal_reads_the_masks_once(make_model, make_images, monkeypatch):
    """Its passes are planned on the CPU: masks are brought there once, and no pass asks a tensor of the device."""
    model = make_model()
    images = make_images(model)
    engine = Perturber(model, images, rows=4).using(Fill("removal", "removal"))
    tokens = engine._removal_tokens()
    counted = []
    for versions in (3, 40):
        masks = torch.rand(len(images), versions, engine.patches, generator=torch.Generator().manual_seed(0)) < 0.5
        passes = []
        own = tokens._blocks
        monkeypatch.setattr(
            tokens,
            "_blocks",
            lambda *given, own=own, passes=passes: passes.append(waits(lambda: own(*given))) or own(*given),
        )
        engine.logits(masks)
        monkeypatch.setattr(tokens, "_blocks", own)
        counted.append(len(passes))
        assert not any(passes)
    assert counted[1] > counted[0]


def test_attribution_does_not_wait_for_each_block(make_model, make_images):
    images = make_images(make_model())
    models = [make_model(depth=depth) for depth in (2, 6)]
    counted = [waits(lambda model=model: attribute(model, images)) for model in models]
    assert counted[0] == counted[1]
