# %% [markdown]
# # An SAE from another library
#
# fgg reads SAEs of sae-lens, Prisma, saev, dictionary_learning, overcomplete and VisAE-Bench. A file that opens is not
# yet an SAE that fits. It must have been trained on *this* model, at *this* place, on activations that were normalised in
# the way that the weights expect. This notebook trains a small top-k SAE, writes it in the format of dictionary_learning,
# reads it with fgg, and shows the three checks.

# %%
import json
import sys
import warnings
from pathlib import Path

sys.path.insert(0, "..")  # for a clone in which fgg is not installed: notebooks run in examples/
warnings.filterwarnings("ignore", "IProgress not found")  # tqdm would like ipywidgets

import torch

import fgg

run = fgg.example_run()
LAYER, FEATURES, K = 1, 256, 16

# %% [markdown]
# ## The activations
# The residual stream at layer 1: the output of `blocks[1]`, here through an ordinary PyTorch hook. The SAE of a gate
# reads patches, so the class token is left out.


# %%
def residuals(images):
    found = []
    handle = run.model.blocks[LAYER].register_forward_hook(
        lambda module, given, out: found.append(out.detach())
    )
    with torch.no_grad():
        run.model(images)
    handle.remove()
    return found[0][:, run.model.num_prefix_tokens :].flatten(0, 1)


rows = residuals(run.images(600, split="train").tensors)
held_out = residuals(run.images(None, split="val").tensors)
rows.shape

# %% [markdown]
# ## A top-k SAE in a few lines
# Codes are the K largest of ReLU(W (x - b) + c), and the rest is 0. (Yours comes out of your library.)

# %%
draw = torch.Generator().manual_seed(0)
width = rows.shape[1]
decoder = torch.nn.functional.normalize(
    torch.randn(width, FEATURES, generator=draw), dim=0
).requires_grad_()
encoder = decoder.detach().T.clone().requires_grad_()
bias, centre = torch.zeros(FEATURES, requires_grad=True), rows.mean(0).clone().requires_grad_()


def encode(x):
    values, places = torch.relu((x - centre) @ encoder.T + bias).topk(K, dim=-1)
    return torch.zeros(len(x), FEATURES).scatter(-1, places, values)


optimiser = torch.optim.Adam([encoder, decoder, bias, centre], lr=3e-3)
for _ in range(400):
    batch = rows[torch.randint(len(rows), (512,), generator=draw)]
    loss = (encode(batch) @ decoder.T + centre - batch).square().sum(-1).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        decoder /= decoder.norm(dim=0)  # so that a code cannot hide in the length of its direction

# %% [markdown]
# ## The files
# As `trainSAE` of dictionary_learning writes them: `ae.pt`, a state dict of the class AutoEncoderTopK, and `config.json`,
# which names the class and the module that was read.

# %%
folder = Path("trainer_0")
folder.mkdir(exist_ok=True)
state = {
    "encoder.weight": encoder,
    "encoder.bias": bias,
    "decoder.weight": decoder,
    "b_dec": centre,
}
state = {name: tensor.detach().clone() for name, tensor in state.items()}
trainer = {
    "dict_class": "AutoEncoderTopK", "activation_dim": width, "dict_size": FEATURES, "k": K,
    "layer": LAYER, "submodule_name": f"resid_post_layer_{LAYER}",
}  # fmt: skip
settings = {"trainer": trainer, "buffer": {"io": "out"}}
(folder / "config.json").write_text(json.dumps(settings))
torch.save({**state, "k": torch.tensor(K), "threshold": torch.tensor(-1.0)}, folder / "ae.pt")

# %% [markdown]
# ## First check: are the codes the same?
# Every reader can get a bias, a transpose or a threshold wrong, and the maps would still look plausible. Compare the codes
# on real activations with those of the code that trained the SAE.

# %%
sae = fgg.load_sae(folder)
with torch.no_grad():
    theirs, ours = encode(held_out), sae.encode(held_out)
    rebuilt = sae.decode(ours)
print(type(sae).__name__, "with", sae.W_dec.shape[0], "features of width", sae.W_dec.shape[1])
print(
    f"largest difference of a code: {(theirs - ours).abs().max():.1e}, of codes up to {theirs.max():.1f}"
)

# %% [markdown]
# ## Second check: does it reconstruct this model?
# The explained variance on held-out images. Given activations in another normalisation than in its training, the same SAE
# explains less, and nothing else would tell.

# %%
total = (held_out - held_out.mean(0)).square().sum()


def explained(again):
    return float(1 - (again - held_out).square().sum() / total)


with torch.no_grad():
    scaled = (
        held_out / held_out.norm(dim=1).mean() * width**0.5
    )  # the norm that some libraries train on
    wrong = sae.decode(sae.encode(scaled)) * held_out.norm(dim=1).mean() / width**0.5
print(f"explained variance            {explained(rebuilt):.3f}")
print(f"if activations were rescaled  {explained(wrong):.3f}")
print(f"active features per patch     {float((ours != 0).sum(-1).float().mean()):.1f}")

# %% [markdown]
# ## Third check: the place
# The configuration says that the SAE reads `resid_post_layer_1`, which is the end of block 1. fgg knows the names that
# several libraries give to a place, and refuses the SAE elsewhere.

# %%
images = run.images(40)
gated = fgg.attribute(run.model, images.tensors, gate=fgg.Gate(layers=LAYER), saes={LAYER: sae})
try:
    fgg.attribute(run.model, images.tensors, gate=fgg.Gate(layers=2), saes={2: sae})
except fgg.FggError as refusal:
    print(refusal)

# %% [markdown]
# ## The gated map
# Two SAEs of the same layer need not agree on the gates: they have other features. How far they do is worth a look before
# anything is said about "the" features of a patch.

# %%
gated.show(images, most=4)
native = fgg.attribute(run.model, images.tensors, gate=fgg.Gate(layers=LAYER), saes=run.saes)


def rank_correlation(a, b):
    ranks = [each.argsort(-1).argsort(-1).double() for each in (a, b)]
    return torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*ranks, strict=True)]
    )


gates = rank_correlation(gated.gates[LAYER], native.gates[LAYER])
maps = rank_correlation(gated.relevance, native.relevance)
print(
    f"rank correlation of the gates of the two SAEs: {gates.mean():.2f} (from {gates.min():.2f} to {gates.max():.2f})"
)
print(
    f"rank correlation of the gated maps:            {maps.mean():.2f} (from {maps.min():.2f} to {maps.max():.2f})"
)

# %% [markdown]
# That they agree does not show that the features matter. Compare with a gate that uses no SAE (`construction="no_sae"`):
# where it gives the same gates, the SAE added nothing to the map.

# %%
without = fgg.attribute(
    run.model, images.tensors, gate=fgg.Gate(layers=LAYER, construction="no_sae")
)
same = rank_correlation(gated.gates[LAYER], without.gates[LAYER])
print(
    f"rank correlation with the gates of no SAE:     {same.mean():.2f} (from {same.min():.2f} to {same.max():.2f})"
)

# %% [markdown]
# In the workflow, `sae: {layers: [1], weights: path/to/trainer_{layer}}` takes such an SAE. The tables then say what was
# measured of it on held-out images, and warn if it is weak.
