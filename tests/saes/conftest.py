"""The tiny trained model and its SAE."""

from tiny_trained import data, defaults, model, model_folder, model_settings, pictures, sae_folder, sae_settings

__all__ = ["data", "defaults", "model", "model_folder", "model_settings", "pictures", "sae_folder", "sae_settings"]
