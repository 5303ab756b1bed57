"""Training: batches, augmentation, the loop, checkpoints. Knows nothing of search and serving."""

from cellcode.training.train import train

__all__ = ["train"]
