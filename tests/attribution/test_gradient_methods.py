"""The gradient family against captum, at pixels and at tokens, and Grad-CAM against pytorch-grad-cam."""

import captum.attr
import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import fgg
from fgg.attribution.gradients import rest_of
from fgg.attribution.smoothgrad import copies
from fgg.models.vit import patch_size

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients"),
    pytest.mark.filterwarnings("ignore::fgg.degeneracy.MeaninglessGate"),
]
LAYERS = [None, (1,), (0, 1)]
IDS = ["a", "b", "c", "d"]


def near(found, expected, what, capsys, scale=None):
    """Print the largest difference relative to the largest value of each map, and require it to be small.

    A map whose terms, of size `scale`, cancel but for a hundredth is compared at their size.
    """
    largest = expected.abs().amax(-1)
    if scale is not None:
        terms = scale.abs().amax(-1)
        largest = torch.where(largest < 0.01 * terms, terms, largest)
    error = float(((found - expected).abs().amax(-1) / largest).max())
    with capsys.disabled():
        print(f" [{what}: {error:.1e}]", end="")
    assert error < 1e-5, (what, error)
    assert expected.std(-1).min() > 0, "the reference is constant, which proves nothing"


@pytest.fixture
def places(model, images):
    """A function: layers -> pairs of a function to logits and its inputs, as captum takes them."""

    def of(layers):
        if layers is None:
            return [(model, images)]
        found = {}
        hooks = [
            model.blocks[layer].register_forward_hook(
                lambda _m, _i, output, own=layer: found.__setitem__(own, output.detach())
            )
            for layer in layers
        ]
        with torch.no_grad():
            model(images)
        for hook in hooks:
            hook.remove()
        return [(rest_of(model, layer), found[layer]) for layer in layers]

    return of


def per_patch(model, elements):
    """Sums over the pixels of each patch, or the width of each token, by loops."""
    if elements.ndim == 3:
        return elements[:, model.num_prefix_tokens :].sum(-1)
    height, width = patch_size(model)
    rows, columns = elements.shape[2] // height, elements.shape[3] // width
    cells = [
        elements[:, :, r * height : (r + 1) * height, c * width : (c + 1) * width].sum((1, 2, 3))
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.stack(cells, 1)


@pytest.mark.parametrize("layers", LAYERS, ids=str)
def test_input_x_gradient(layers, model, images, places, capsys):
    target = torch.tensor([0, 1, 2, 3])
    theirs = [captum.attr.InputXGradient(logits).attribute(x, target=target) for logits, x in places(layers)]
    expected = sum(per_patch(model, each) for each in theirs)
    # Before a norm that is the last part, the sum over a token is zero, whatever its elements are.
    scale = sum(per_patch(model, each.abs()) for each in theirs)
    found = fgg.attribute(model, images, "input_x_gradient", target=target, layers=layers).relevance
    near(found, expected.detach(), "captum InputXGradient", capsys, scale.detach())


@pytest.mark.parametrize("layers", LAYERS, ids=str)
def test_gradient_norm(layers, model, images, places, capsys):
    target = torch.tensor([0, 1, 2, 3])
    expected = sum(
        per_patch(model, captum.attr.Saliency(logits).attribute(x, target=target, abs=False) ** 2).sqrt()
        for logits, x in places(layers)
    )
    found = fgg.attribute(model, images, "gradient_norm", target=target, layers=layers).relevance
    near(found, expected.detach(), "captum Saliency", capsys)


@pytest.mark.parametrize("layers", LAYERS, ids=str)
def test_smoothgrad(layers, model, images, places, capsys):
    target, own = torch.tensor([0, 1, 2, 3]), layers or [None]
    expected = 0
    for layer, (logits, x) in zip(own, places(layers), strict=True):
        slopes = [
            captum.attr.Saliency(logits).attribute(noisy, target=target, abs=False)
            for noisy in copies(x, IDS, 5, 4, 0.2, layer)
        ]
        expected = expected + per_patch(model, torch.stack(slopes).mean(0) ** 2).sqrt()
    given = {"target": target, "layers": layers, "samples": 4, "noise": 0.2, "image_ids": IDS, "seed": 5}
    near(fgg.attribute(model, images, "smoothgrad", **given).relevance, expected.detach(), "captum Saliency", capsys)


def test_the_noise_of_smoothgrad():
    inputs = torch.stack([torch.linspace(-1, 1, 3072), torch.linspace(0, 8, 3072)]).view(2, 3, 32, 32)
    noise = torch.stack(list(copies(inputs, ["a", "b"], 0, 40, 0.1))) - inputs
    torch.testing.assert_close(noise.std((0, 2, 3, 4)), torch.tensor([0.2, 0.8]), rtol=0.02, atol=0)
    assert noise.mean().abs() < 0.01
    assert not torch.equal(noise[0], noise[1])


# At tokens, the norm of a constant baseline other than zero is ill-conditioned.
@pytest.mark.parametrize(("layers", "baseline"), [(None, -0.4), *((layers, 0.0) for layers in LAYERS)], ids=str)
def test_integrated_gradients(layers, baseline, model, images, places, capsys):
    target = torch.tensor([0, 1, 2, 3])
    expected, residual, scale = 0, 0, 0  # for the scale, see input x gradient
    for logits, x in places(layers):
        found, delta = captum.attr.IntegratedGradients(logits).attribute(
            x, baselines=baseline, target=target, n_steps=16, return_convergence_delta=True
        )
        expected, residual = expected + per_patch(model, found), residual - delta
        scale = scale + per_patch(model, found.abs().float())
    given = {"target": target, "layers": layers, "steps": 16, "baseline": baseline}
    out = fgg.attribute(model, images, "integrated_gradients", **given)
    near(out.relevance, expected.detach().float(), "captum IntegratedGradients", capsys, scale)
    torch.testing.assert_close(out.columns["completeness_residual"], residual.detach().float(), atol=2e-4, rtol=1e-3)


def test_more_steps_leave_less_residual(model, images):
    left = [
        fgg.attribute(model, images, "integrated_gradients", steps=steps).columns["completeness_residual"].abs().mean()
        for steps in (2, 64)
    ]
    assert left[1] < 0.3 * left[0]


def test_gradcam_norm1(model, images, capsys):
    """The library's map before it is enlarged and scaled."""
    rows, columns = model.patch_embed.grid_size
    prefix = model.num_prefix_tokens

    def reshape(tokens):
        return tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))

    found = fgg.attribute(model, images, "gradcam_norm1", target=2).relevance
    with GradCAM(model=model, target_layers=[model.blocks[-1].norm1], reshape_transform=reshape) as cam:
        cam.activations_and_grads(images)
        outputs = cam.activations_and_grads(images)
        model.zero_grad()
        sum(ClassifierOutputTarget(2)(output) for output in outputs).backward()
        activations = cam.activations_and_grads.activations[0].numpy()
        gradients = cam.activations_and_grads.gradients[0].numpy()
        image = cam.get_cam_image(images, model.blocks[-1].norm1, None, activations, gradients, False)
        expected = torch.from_numpy(np.maximum(image, 0)).flatten(1)
    model.zero_grad()
    assert (expected > 0).any()
    error = float((found - expected).abs().max() / expected.max())
    with capsys.disabled():
        print(f" [pytorch-grad-cam: {error:.1e}]", end="")
    assert error < 1e-5


def test_last_attention_and_attention_cam(model, images):
    """Against the definitions, head by head, in float64."""
    import definitions as slow

    for index, image in enumerate(images):
        one = slow.look(model, image, target=1)
        attention, gradient = one.attention[-1], one.attention_gradient[-1]
        rows = [0] if one.class_row else list(range(one.prefix, attention.shape[1]))
        patches = range(one.prefix, attention.shape[1])
        paid = [np.mean([np.mean([head[t][s] for t in rows]) for head in attention]) for s in patches]
        found = fgg.attribute(model, images[index : index + 1], "last_attention").relevance[0].double().numpy()
        np.testing.assert_allclose(found, paid, rtol=1e-5)
        cam = np.zeros(len(patches))
        for head, slopes in zip(attention, gradient, strict=True):
            attended = np.array([np.mean([head[t][s] for t in rows]) for s in patches])
            weight = np.mean([np.mean([slopes[t][s] for t in rows]) for s in patches])
            cam += weight * attended / len(attention)
        found = fgg.attribute(model, images[index : index + 1], "attention_cam", target=1).relevance[0].double().numpy()
        np.testing.assert_allclose(found, np.maximum(cam, 0), atol=1e-5 * np.abs(cam).max())


@pytest.mark.parametrize("method", ["input_x_gradient", "gradient_norm", "integrated_gradients", "smoothgrad"])
def test_a_gate_multiplies_the_relevance_at_its_layer(method, model, images, saes):
    """With two layers, the gated map is the sum of the layers' maps, each times its gate."""
    options = {"image_ids": IDS, "target": 1}
    out = fgg.attribute(model, images, method, gate=fgg.Gate((0, 1)), saes=saes, **options)
    parts = {layer: fgg.attribute(model, images, method, layers=(layer,), **options).relevance for layer in (0, 1)}
    expected = sum(parts[layer] * out.gates[layer] for layer in (0, 1))
    torch.testing.assert_close(out.relevance, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    transmm = fgg.attribute(model, images, gate=fgg.Gate((0, 1)), saes=saes, **options)
    assert all(torch.equal(transmm.gates[layer], out.gates[layer]) for layer in (0, 1))
