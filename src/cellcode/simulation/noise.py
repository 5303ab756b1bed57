"""Deterministic randomness of place: the same value at the same coordinates, in any order and for any size of world."""

import numpy as np
import numpy.typing as npt

from cellcode.types import Float32, Float64, UInt32


def hashed(seed: int, *keys: npt.ArrayLike) -> UInt32:
    """Mix integers into 32 well-spread bits; keys broadcast. (Multiply-xorshift rounds as in MurmurHash3's finaliser.)"""
    value: UInt32 = np.asarray(np.uint32((seed * 0x9E3779B1 + 0x85EBCA6B) & 0xFFFFFFFF))
    with np.errstate(over="ignore"):
        for key in keys:
            key = np.asarray(key)
            key = key if key.dtype == np.uint32 else key.astype(np.int64).astype(np.uint32)
            value = value ^ key * np.uint32(0xCC9E2D51)
            for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
                value ^= value >> np.uint32(shift)
                value *= np.uint32(factor)
            value ^= value >> np.uint32(16)
    return value


def uniform(seed: int, *keys: npt.ArrayLike) -> Float32:
    """Return hashed values in 0..1."""
    return hashed(seed, *keys).astype(np.float32) / np.float32(2**32)


def byte(bits: UInt32, shift: int) -> Float32:
    """Return eight of the bits as a value in 0..1."""
    return ((bits >> np.uint32(shift)) & np.uint32(255)).astype(np.float32) / np.float32(255)


def pick(bits: UInt32, shift: int, choices: int) -> UInt32:
    """Return one of 0..choices-1 from the bits above `shift`."""
    return (bits >> np.uint32(shift)) % np.uint32(choices)


def smooth(seed: int, x_m: Float64, y_m: Float64, scale_m: float) -> Float32:
    """Smooth noise of mean about 0 and deviation about 1, with features of `scale_m`; coordinates broadcast."""
    total = np.zeros(np.broadcast_shapes(x_m.shape, y_m.shape), np.float32)
    for octave, weight in enumerate((1.0, 0.5, 0.25)):
        u, v = x_m * (2**octave / scale_m), y_m * (2**octave / scale_m)
        i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        a, b = (_ease((w - k).astype(np.float32)) for w, k in ((u, i), (v, j)))
        corner = [[uniform(seed + 97 * octave, i + di, j + dj) for dj in (0, 1)] for di in (0, 1)]
        low = corner[0][0] * (1 - b) + corner[0][1] * b
        high = corner[1][0] * (1 - b) + corner[1][1] * b
        total += np.float32(weight) * (low * (1 - a) + high * a - np.float32(0.5))
    return total * np.float32(4.4)


def _ease(t: Float32) -> Float32:
    return t * t * (3 - 2 * t)
