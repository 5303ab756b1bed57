"""Losses: from a row of similarities to one value per row. `LOSSES` has them by name."""

from cellcode.model.losses.protocol import LOSSES, PairLoss, PrototypeSums, make_loss

__all__ = ["LOSSES", "PairLoss", "PrototypeSums", "make_loss"]
