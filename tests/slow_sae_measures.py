"""For the tests of SAE measures: a random SAE, and Moran's I and monosemanticity by their formulas, one pair at a time."""

from __future__ import annotations

import numpy as np
import torch

from fgg.saes.sae import build_sae

WIDTH, FEATURES = 12, 20


def weights(grid, corners):
    """Which patches are neighbours, from their distances."""
    places = [divmod(patch, grid[1]) for patch in range(grid[0] * grid[1])]
    near = lambda a, b: (abs(a[0] - b[0]), abs(a[1] - b[1]))  # noqa: E731
    known = {(0, 1), (1, 0), (1, 1)} if corners else {(0, 1), (1, 0)}
    return np.array([[float(near(a, b) in known) for b in places] for a in places])


def slow_moran(x, w):
    z = np.asarray(x, dtype=np.float64)
    z = z - z.mean()
    total = sum(w[i, j] * z[i] * z[j] for i in range(len(z)) for j in range(len(z)))
    return len(z) / w.sum() * total / sum(value**2 for value in z)


def slow_monosemanticity(activations, embeddings):
    a = [float(value) - float(activations.min()) for value in activations]
    e = [np.asarray(own) / np.linalg.norm(own) for own in embeddings.double().numpy()]
    pairs = [(n, m) for n in range(len(a)) for m in range(len(a)) if n != m]
    whole = sum(a[n] * a[m] for n, m in pairs)
    return sum(a[n] * a[m] * float(e[n] @ e[m]) for n, m in pairs) / whole


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_sae(k=4):
    shapes = {"W_enc": (WIDTH, FEATURES), "W_dec": (FEATURES, WIDTH), "b_enc": (FEATURES,), "b_dec": (WIDTH,)}
    tensors = {name: 0.3 * drawn(*shape, seed=number) for number, (name, shape) in enumerate(shapes.items())}
    return build_sae(tensors, "topk", k=k)
