"""Several processes: collectives, the process group, torchrun, and tasks on a Ray cluster.

Knows nothing of what is trained.
"""
