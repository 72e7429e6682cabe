"""Pictures that a tiny model can tell apart: discs, bars and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw(folder: Path, per_class: int = 16, side: int = 32, seed: int = 0) -> Path:
    """Write ``folder/<class>/<number>.png``, and return the folder."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    for name in ("bar", "disc", "noise"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            y, x = random.uniform(side * 0.3, side * 0.7, 2)
            pixels = random.normal(80, 15, (side, side, 3))
            if name == "disc":
                pixels[(rows - y) ** 2 + (columns - x) ** 2 < (side / 5) ** 2] += 120
            elif name == "bar":
                pixels[np.abs(rows - y) < side / 12] += 120
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{number:02d}.png")
    return folder
