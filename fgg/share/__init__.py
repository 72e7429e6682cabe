"""Share SAEs: a folder for the Hugging Face hub with weights, settings and a model card, and its upload."""
