"""Cell codes: building them from a run and imagery, their calibration, the folder that holds them.

A code is the cell's aerial embedding plus kappa times its prototype; a cell with one of them has a code too.
"""

from cellcode.database.building.build import build
from cellcode.database.calibration.fit import Calibration
from cellcode.database.editing import compress, grow, reshape
from cellcode.database.store.database import Database

__all__ = ["Calibration", "Database", "build", "compress", "grow", "reshape"]
