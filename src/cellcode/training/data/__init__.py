"""What a training step is fed: tables and streams of photos, schedules, hard batches, augmentation, tiles, prefetching.

Every draw is a pure function of seed and step.
"""
