"""Setting up a training: its data, its imagery, the model and the prototypes.

Everything is checked before the first step.
"""
