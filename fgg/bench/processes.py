"""What a process costs: its peak memory, and its start."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from fgg.attribution.attribute import attribute
from fgg.faithfulness import saco
from fgg.models.vit import load_model
from fgg.perturbation.engine import Perturber

START = re.compile(r"start-up took ([\d.]+) s of ([\d.]+) s")  # as `fgg.errors.command` writes it


def memory(device: str) -> dict[str, float]:
    """Peak memory of attribution and metrics over 64 and 512 images, each in a process of its own."""
    peaks = {}
    for images in (64, 512):
        run = [sys.executable, "-m", "fgg.bench", "--memory", str(images), "--device", device]
        peaks[images] = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    return {"mib_at_64": peaks[64], "mib_at_512": peaks[512], "ratio": peaks[512] / peaks[64]}


def startup(logs: Path) -> dict[str, float]:
    """The cost of starting the processes of a run, from the last lines of its jobs' logs: jobs, seconds, share."""
    found = [START.findall(log.read_text(encoding="utf-8", errors="replace")) for log in sorted(logs.rglob("*.log"))]
    times = [(float(start), float(whole)) for matches in found for start, whole in matches[-1:]]
    starts, wholes = (sum(column) for column in zip(*times, strict=True)) if times else (0.0, 0.0)
    return {"jobs": len(times), "seconds": wholes, "start_seconds": starts, "share": starts / wholes if wholes else 0.0}


def work_through(size: dict[str, Any], count: int, device: torch.device) -> float:
    """Attribute and score a number of images (80 x 80) batch by batch; return the peak memory of the process in MiB."""
    model = load_model(size["architecture"], size["kwargs"], num_classes=10).to(device)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, 32):
        images = torch.randn(min(32, count - start), 3, 80, 80, generator=generator).to(device)
        relevance = attribute(model, images).relevance
        saco.evaluate(Perturber(model, images), relevance)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
