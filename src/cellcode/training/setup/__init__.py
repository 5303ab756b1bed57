"""What a training is made of: its data, its imagery, and the factory of model, sampler and inputs.

Everything is checked before the first step.
"""
