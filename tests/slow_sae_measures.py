"""Moran's I and monosemanticity by their formulas, one pair at a time."""

from __future__ import annotations

import numpy as np


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
