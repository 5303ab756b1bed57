"""Calibration: weights of both terms, imputed prototypes, radii and in-region probability, from validation photos."""
