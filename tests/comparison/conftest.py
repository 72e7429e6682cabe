"""Synthetic scores of the default grid."""

from synthetic_scores import few_resamples, results, write_scores

__all__ = ["few_resamples", "results", "write_scores"]
