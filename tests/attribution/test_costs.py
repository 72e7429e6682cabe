"""What each method states about its passes is what the model does."""

import pytest
import torch
from zoo import method_options

import fgg
from fgg.attribution.registry import find_method, methods
from fgg.comparison.costs import passes

IMAGES = 4


class Counter:
    """Counts the images that go through the model, forward and backward."""

    def __init__(self, model):
        self.forward = self.backward = 0
        self.model = model

    def watch(self, method):
        """Some methods call the head for every block, and the perturbation engine does not call whole blocks."""
        (self.model.blocks[-1] if method.backward_passes else self.model.head).register_forward_hook(self.count)

    def count(self, _module, _inputs, output):
        self.forward += len(output)
        if output.requires_grad:
            output.register_hook(self.count_back)

    def count_back(self, gradient):
        self.backward += len(gradient)


@pytest.fixture
def counted(make_model):
    """A model and its counter."""
    model = make_model()
    return model, Counter(model)


# The second of its backward passes hands relevance back by its own rules, without autograd.
WITHOUT_AUTOGRAD = {"chefer_lrp": 1}


@pytest.mark.parametrize("name", method_options())
@pytest.mark.parametrize("layers", [None, (0, 1)])
def test_passes(name, layers, counted, make_images):
    model, counter = counted
    method, options = find_method(name), method_options()[name]
    if layers and "layers" not in method.options:
        pytest.skip("it has no layers")
    counter.watch(method)
    options = options | ({"layers": layers} if layers else {})
    fgg.attribute(model, make_images(model, IMAGES), name, target=1, **options)
    forward, backward = method.passes(model.patch_embed.num_patches, options)
    assert (counter.forward, counter.backward) == (
        IMAGES * forward,
        IMAGES * (backward - WITHOUT_AUTOGRAD.get(name, 0)),
    )


@pytest.mark.parametrize("name", [name for name, own in methods().items() if own.gateable])
def test_passes_with_a_gate(name, counted, make_images, saes):
    model, counter = counted
    options = method_options()[name]
    counter.watch(find_method("transmm"))
    fgg.attribute(model, make_images(model, IMAGES), name, gate=fgg.Gate((0, 1)), saes=saes, target=1, **options)
    settings = {"method": name, "options": options, "gate": {"layers": [0, 1]}}
    forward, backward = passes(settings, model.patch_embed.num_patches)
    assert (counter.forward, counter.backward) == (
        IMAGES * forward,
        IMAGES * (backward - WITHOUT_AUTOGRAD.get(name, 0)),
    )


def test_costs_in_words():
    assert find_method("transmm").cost == "1 forward and 1 backward passes per image"
    assert find_method("occlusion").cost == "2 + patches forward and 0 backward passes per image"
    assert find_method("smoothgrad").cost == "1 + samples forward and samples backward passes per image (samples: 25)"
    assert torch.tensor(find_method("kernel_shap").passes(100)).tolist() == [1027, 0]
