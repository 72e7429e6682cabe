"""The state of an SAE's training, kept in a file while it runs, so that a killed training goes on and ends in the same bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fgg.errors import FggError
from fgg.saes.formats.torch_files import read_torch
from fgg.tables import atomic

SECONDS = 60.0  # between two savings
COUNTERS = ("n_training_steps", "n_training_samples", "n_frac_active_samples")
TENSORS = ("act_freq_scores", "n_forward_passes_since_fired")
WHITENING = ("mean", "matrix", "inverse_matrix")


@dataclass
class Checkpoint:
    """A file with a training's state.

    Attributes:
        path: the file.
        key: names all that the training depends on; a state with another key is not resumed.
        seconds: least time between two savings; what is saved when does not enter the numbers.
        points: the learning curve so far, which is saved and restored too.
    """

    path: Path
    key: str
    seconds: float = SECONDS
    points: list[dict[str, Any]] = field(default_factory=list)
    _saved: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved >= self.seconds

    def save(self, trainer: Any) -> None:
        """Write the state of a ``sae_lens.SAETrainer`` between two steps."""
        scaler = trainer.activation_scaler
        whitening = scaler.whitening and {name: getattr(scaler.whitening, name) for name in WHITENING}
        state = {
            "key": self.key,
            "points": self.points,
            "sae": trainer.sae.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "lr_scheduler": trainer.lr_scheduler.state_dict(),
            "coefficients": {name: own.state_dict() for name, own in trainer.coefficient_schedulers.items()},
            **{name: getattr(trainer, name) for name in (*COUNTERS, *TENSORS)},
            "scaling_factor": scaler.scaling_factor,
            "whitening": whitening,
            "generator": torch.get_rng_state(),
        }
        with atomic(self.path) as temporary:
            torch.save(state, temporary)
        self._saved = time.monotonic()

    def restore(self, trainer: Any) -> bool:
        """Put the saved state into a trainer; returns whether there was one of this training.

        A damaged file, or one of another training, counts as none.
        """
        from sae_lens.training.activation_scaler import ActivationWhitening

        if not self.path.is_file():
            return False
        try:
            state = read_torch(self.path.read_bytes())  # verifies the checksums, which torch alone does not
            known = state["key"]
        except (FggError, OSError, LookupError, TypeError):
            print(f"note: {self.path} is damaged; the training starts anew")
            return False
        if known != self.key:
            return False
        trainer.sae.load_state_dict(state["sae"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.lr_scheduler.load_state_dict(state["lr_scheduler"])
        for name, own in trainer.coefficient_schedulers.items():
            own.load_state_dict(state["coefficients"][name])
        for name in COUNTERS:
            setattr(trainer, name, state[name])
        for name in TENSORS:
            setattr(trainer, name, state[name].to(trainer.cfg.device))
        trainer.activation_scaler.scaling_factor = state["scaling_factor"]
        trainer.activation_scaler.whitening = state["whitening"] and ActivationWhitening(**state["whitening"])
        torch.set_rng_state(state["generator"])
        self.points[:] = state["points"]
        return True
