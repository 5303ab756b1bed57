"""The training loop: trainer, objective, checkpoints, log, validation, and the stop on a non-finite loss.

Everything that is resumed is here.
"""
