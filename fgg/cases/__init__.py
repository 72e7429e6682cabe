"""Case studies: which feature boosted or suppressed which patch."""
