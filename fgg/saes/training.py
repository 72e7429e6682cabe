"""Train an SAE with sae-lens, wholly, with a decoder that stays random, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.progress import Progress, progress
from fgg.saes.normalisation import SCALED, WHITENED, without_bar

TRAINED, FROZEN_DECODER, UNTRAINED = "trained", "frozen_decoder", "untrained"
DECAY = 1 / 2  # share of the steps, at the end, with a falling learning rate
WARMUP = 1 / 12
DEAD_AFTER = 1 / 20  # share of the steps without an activation after which a feature is revived
NORM_BATCHES = 50  # from which sae-lens estimates the normalisation


def train(rows: Tensor, settings: dict[str, Any], seed: int, kind: str = TRAINED) -> Any:
    """Train a sae-lens SAE on rows (n, D); normalisation by a constant is folded into its weights.

    Args:
        rows: the residuals, float32.
        settings: the block ``sae.train``.
        seed: of the initial weights and of the order of the rows.
        kind: ``trained``. Or ``frozen_decoder``: the rows of W_dec are random unit vectors (`unit_decoder`) of the residual
            stream and stay so, while the rest is trained (arXiv 2602.14111). Or ``untrained``: the SAE with which the
            training starts, with its normalisation, and no step of the training.

    Returns:
        The SAE in eval mode; ``cfg.metadata`` has ``tokens_seen`` and ``normalisation``.

    Raises:
        FggError: there are fewer rows than one batch, k is larger than the number of features, or the training diverged.
    """
    from sae_lens import LoggingConfig, SAETrainer
    from sae_lens.config import SAETrainerConfig

    batch = min(settings["batch_size"], len(rows))
    settings = settings | {"normalize": normalisation(settings["normalize"], kind)}
    steps = max(1, settings["tokens"] // batch)
    warmup = int(WARMUP * steps)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
        torch.manual_seed(seed)  # sae-lens draws its initial weights from the global generator
        sae = _initial(rows, settings, warmup, kind == FROZEN_DECODER)
        if kind == FROZEN_DECODER:
            _freeze(sae, seed)
        trainer = SAETrainer(
            cfg=SAETrainerConfig(
                total_training_samples=steps * batch,
                train_batch_size_samples=batch,
                lr=settings["learning_rate"],
                lr_end=settings["learning_rate"] / 100,
                lr_warm_up_steps=warmup,
                lr_decay_steps=int(DECAY * steps),
                device=str(rows.device),
                dead_feature_window=max(1, int(DEAD_AFTER * steps)),
                feature_sampling_window=steps,
                n_batches_for_norm_estimate=NORM_BATCHES,
                logger=LoggingConfig(log_to_wandb=False),
            ),
            sae=sae,
            data_provider=shuffled(rows, batch, generator),
        )
        if kind == UNTRAINED:
            trainer.n_training_samples = steps * batch  # the training is over: only the normalisation is folded in
            with without_bar():
                trained = trainer.fit().eval()
        else:
            with progress([], steps * batch, "SAE training", "token") as bar, without_bar():
                trainer.data_provider = _counted(trainer.data_provider, bar)
                trained = trainer.fit().eval()
    if kind == FROZEN_DECODER:
        _unit_again(trained, seed)
    if not all(tensor.isfinite().all() for tensor in trained.state_dict().values()):
        raise FggError("SAE training diverged; lower sae.train.learning_rate")
    trained.cfg.metadata.tokens_seen = 0 if kind == UNTRAINED else steps * batch
    trained.cfg.metadata.normalisation = settings["normalize"]
    return trained


def normalisation(wanted: str, kind: str) -> str:
    """The normalisation with which an SAE of a kind is trained.

    Folded in, whitening would give a random decoder the covariance of the residuals; a frozen decoder is therefore
    trained on residuals that are only scaled.
    """
    return SCALED if kind == FROZEN_DECODER and wanted == WHITENED else wanted


def unit_decoder(features: int, width: int, seed: int) -> Tensor:
    """Random directions, float32 (F, D): rows of length 1, drawn from the seed."""
    drawn = torch.randn(features, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn / drawn.norm(dim=1, keepdim=True)).float()


def _initial(rows: Tensor, settings: dict[str, Any], warmup: int, frozen: bool) -> Any:
    """The SAE as sae-lens draws it; without whitening its b_dec is the rows' mean, which the features need not explain."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig

    width = rows.shape[1]
    common = {
        "d_in": width,
        "d_sae": width * settings["expansion"],
        "normalize_activations": settings["normalize"],
        "device": str(rows.device),
        "dtype": "float32",
    }
    if settings["architecture"] == "topk":
        if settings["k"] > common["d_sae"]:
            raise FggError(f"sae.train.k: {settings['k']} is more than the {common['d_sae']} features")
        scale = {"rescale_acts_by_decoder_norm": False} if frozen else {}  # every row has length 1
        sae: Any = TopKTrainingSAE(TopKTrainingSAEConfig(**common, k=settings["k"], **scale))
    else:
        sae = StandardTrainingSAE(
            StandardTrainingSAEConfig(**common, l1_coefficient=settings["l1"], l1_warm_up_steps=warmup)
        )
    if settings["normalize"] in ("none", SCALED):
        norm = rows.norm(dim=1).mean() / width**0.5 if settings["normalize"] != "none" else 1.0
        sae.b_dec.data.copy_(rows.mean(0) / norm)
    return sae


@torch.no_grad()
def _freeze(sae: Any, seed: int) -> None:
    """Give an SAE a random decoder of unit vectors that no optimiser changes; the encoder starts at its transpose."""
    sae.W_dec.copy_(unit_decoder(len(sae.W_dec), sae.W_dec.shape[1], seed))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.W_dec.requires_grad_(False)


@torch.no_grad()
def _unit_again(sae: Any, seed: int) -> None:
    """Move the scale that was folded into a frozen decoder to the codes: the same reconstruction, with unit vectors."""
    scale = sae.W_dec.norm(dim=1).mean()
    sae.W_enc.mul_(scale)
    sae.b_enc.mul_(scale)
    sae.W_dec.copy_(unit_decoder(len(sae.W_dec), sae.W_dec.shape[1], seed))


def shuffled(rows: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of rows, reshuffled each epoch; an incomplete last batch is left out."""
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for index in order[: len(rows) // batch * batch].split(batch):
            yield rows[index.to(rows.device)]


def _counted(rows: Iterator[Tensor], bar: Progress) -> Iterator[Tensor]:
    for part in rows:
        bar.update(min(len(part), bar.total - bar.done))  # sae-lens draws extra batches to estimate the norm
        yield part
