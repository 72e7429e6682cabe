"""Synthetic scores of the default grid."""

from synthetic_scores import results, write_scores

__all__ = ["results", "write_scores"]
