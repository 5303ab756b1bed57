"""A rendered world that is both a photo source and an aerial source. Knows no models and no training."""

from cellcode.simulation.simulate import Simulation, simulate

__all__ = ["Simulation", "simulate"]
