"""Train an SAE with sae-lens, wholly, with a decoder that stays random, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.progress import Progress, progress
from fgg.saes.activations import InMemory, Rows
from fgg.saes.checkpoint import Checkpoint
from fgg.saes.initial import freeze, initial, unit_again
from fgg.saes.normalisation import SCALED, WHITENED, without_bar

TRAINED, FROZEN_DECODER, UNTRAINED = "trained", "frozen_decoder", "untrained"
DECAY = 1 / 2  # share of the steps, at the end, with a falling learning rate
WARMUP = 1 / 12
DEAD_AFTER = 1 / 20  # share of the steps without an activation after which a feature is revived
NORM_BATCHES = 50  # from which sae-lens estimates the normalisation
WATCHED = 10  # points of the learning curve, before the last one

Watch = Callable[[Any], dict[str, Any]]


def train(
    rows: Tensor | Rows,
    settings: dict[str, Any],
    seed: int,
    kind: str = TRAINED,
    checkpoint: Checkpoint | None = None,
    watch: Watch | None = None,
) -> Any:
    """Train a sae-lens SAE on rows (n, D); normalisation by a constant is folded into its weights.

    Args:
        rows: the residuals, float32, or a source of batches of them.
        settings: the block ``sae.train``.
        seed: of the initial weights and of the order of the rows.
        kind: ``trained``. Or ``frozen_decoder``: the rows of W_dec are random unit vectors (`unit_decoder`) of the residual
            stream and stay so, while the rest is trained (arXiv 2602.14111). Or ``untrained``: the SAE with which the
            training starts, with its normalisation, and no step of the training.
        checkpoint: where the state is kept while the training runs; a state that is there is resumed.
        watch: measures the SAE at some points of the training. It gets an object with ``encode``, ``decode`` and ``W_dec``
            on rows that are not normalised. The measurements are ``checkpoint.points``, each with ``step`` and ``tokens``.

    Returns:
        The SAE in eval mode; ``cfg.metadata`` has ``tokens_seen`` and ``normalisation``.

    Raises:
        FggError: there are fewer rows than one batch, k is larger than the number of features, or the training diverged.
    """
    from sae_lens import SAETrainer

    rows = InMemory(rows) if isinstance(rows, Tensor) else rows
    batch = min(settings["batch_size"], len(rows))
    settings = settings | {"normalize": normalisation(settings["normalize"], kind)}
    steps = max(1, settings["tokens"] // batch)
    with torch.random.fork_rng(devices=[rows.device] if rows.device.type == "cuda" else []):
        torch.manual_seed(seed)  # sae-lens draws its initial weights from the global generator
        sae = initial(rows, settings, int(WARMUP * steps), kind == FROZEN_DECODER)
        if kind == FROZEN_DECODER:
            freeze(sae, seed)
        trainer = SAETrainer(cfg=_configuration(settings, steps, batch, rows.device), sae=sae, data_provider=iter(()))
        if kind == UNTRAINED:
            trainer.n_training_samples = steps * batch  # the training is over: only the normalisation is folded in
            trainer.data_provider = rows.shuffled(batch, seed)
            with without_bar():
                trained = trainer.fit().eval()
        else:
            if checkpoint is not None and checkpoint.restore(trainer):
                print(f"note: the training goes on after {trainer.n_training_samples} tokens, where it was killed")
            with progress([], steps * batch, "SAE training", "token") as bar, without_bar():
                bar.update(trainer.n_training_samples)
                trainer.data_provider = _provided(trainer, rows, batch, seed, steps, bar, checkpoint, watch)
                trained = trainer.fit().eval()
    if kind == FROZEN_DECODER:
        unit_again(trained, seed)
    if not all(tensor.isfinite().all() for tensor in trained.state_dict().values()):
        raise FggError("SAE training diverged; lower sae.train.learning_rate")
    trained.cfg.metadata.tokens_seen = 0 if kind == UNTRAINED else steps * batch
    trained.cfg.metadata.normalisation = settings["normalize"]
    return trained


def _configuration(settings: dict[str, Any], steps: int, batch: int, device: torch.device) -> Any:
    from sae_lens import LoggingConfig
    from sae_lens.config import SAETrainerConfig

    return SAETrainerConfig(
        total_training_samples=steps * batch,
        train_batch_size_samples=batch,
        lr=settings["learning_rate"],
        lr_end=settings["learning_rate"] / 100,
        lr_warm_up_steps=int(WARMUP * steps),
        lr_decay_steps=int(DECAY * steps),
        device=str(device),
        dead_feature_window=max(1, int(DEAD_AFTER * steps)),
        # Longer than the training: sae-lens would otherwise build a histogram for wandb at its end.
        feature_sampling_window=steps + 1,
        n_batches_for_norm_estimate=NORM_BATCHES,
        logger=LoggingConfig(log_to_wandb=False),
    )


def normalisation(wanted: str, kind: str) -> str:
    """The normalisation with which an SAE of a kind is trained.

    Folded in, whitening would give a random decoder the covariance of the residuals; a frozen decoder is therefore
    trained on residuals that are only scaled.
    """
    return SCALED if kind == FROZEN_DECODER and wanted == WHITENED else wanted


def _provided(
    trainer: Any,
    rows: Rows,
    batch: int,
    seed: int,
    steps: int,
    bar: Progress,
    checkpoint: Checkpoint | None,
    watch: Watch | None,
) -> Iterator[Tensor]:
    """The batches of a training, from where it stands; between steps the SAE is measured, and the state is saved.

    The first `NORM_BATCHES` serve sae-lens' estimate of the normalisation, if there is one.
    """
    estimate = NORM_BATCHES if trainer.sae.cfg.normalize_activations in (SCALED, WHITENED) else 0
    done = trainer.n_training_steps
    drawn = estimate + done if done else 0
    watched = {steps * number // WATCHED for number in range(WATCHED)} if watch and checkpoint else set()
    for number, part in enumerate(rows.shuffled(batch, seed, drawn), drawn - estimate):
        if number >= 0 and checkpoint is not None:
            if watch and number in watched and number not in {point["step"] for point in checkpoint.points}:
                found = watch(Unscaled(trainer))
                checkpoint.points.append({"step": number, "tokens": number * batch, **found})
            if number > done and checkpoint.due:
                checkpoint.save(trainer)
        if number >= 0:
            bar.update(batch)
        yield part


class Unscaled:
    """An SAE in training, for rows that are not normalised: sae-lens normalises them outside the SAE until it has ended."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.W_dec = trainer.sae.W_dec

    def encode(self, rows: Tensor) -> Tensor:
        """Codes (n, F) of rows (n, D)."""
        return self._trainer.sae.encode(self._trainer.activation_scaler.scale(rows))

    def decode(self, codes: Tensor) -> Tensor:
        """Rows (n, D) of codes (n, F)."""
        return self._trainer.activation_scaler.unscale(self._trainer.sae.decode(codes))
