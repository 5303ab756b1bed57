"""The run: what training leaves in a folder and building reads.

It holds two encoders, the prototypes, which cells had training photos, and the embedded validation photos that fit kappa
and the confidence, so that a database can be built without the photos.
"""

from cellcode.runs import architecture
from cellcode.runs.run import CellFacts, Run, Validation

__all__ = ["CellFacts", "Run", "Validation", "architecture"]
