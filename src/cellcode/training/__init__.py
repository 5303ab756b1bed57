"""Training: batches, augmentation, the loop, checkpoints. Knows nothing of search and serving."""

from cellcode.training import train

__all__ = ["train"]
