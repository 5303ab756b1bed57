"""Calibration: kappa, weights of one-term cells, imputed prototypes, radii, and in-region probability.

Fitted on validation photos of the run.
"""
