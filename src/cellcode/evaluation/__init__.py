"""Evaluation: recall within radii beside baselines, slices, intervals, confidence, figures, a report. Knows no HTTP.

A system of another program is scored on the same photos by `ranked`, from the distances of its answers.
"""

from cellcode.evaluation.evaluate import Report, evaluate, summary
from cellcode.evaluation.metrics import Result, difference_95, interval_95, ranked

__all__ = ["Report", "Result", "difference_95", "evaluate", "interval_95", "ranked", "summary"]
