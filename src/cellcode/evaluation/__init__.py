"""Evaluation: recall within radii beside baselines, slices, intervals, a report to read. Knows no HTTP."""

from cellcode.evaluation import evaluate
from cellcode.evaluation.evaluate import Report

__all__ = ["Report", "evaluate"]
