"""Cell codes: building them from a run and imagery, their calibration, the folder that holds them.

A code is the cell's aerial embedding plus kappa times its prototype; a cell with one of them has a code too.
"""

from cellcode.database.building.build import build
from cellcode.database.calibration.fit import Calibration
from cellcode.database.editing.compress import compress
from cellcode.database.editing.grow import grow
from cellcode.database.editing.merge import merge
from cellcode.database.editing.reimage import reimage
from cellcode.database.editing.split import clip, split
from cellcode.database.store.database import Database

__all__ = ["Calibration", "Database", "build", "clip", "compress", "grow", "merge", "reimage", "split"]
