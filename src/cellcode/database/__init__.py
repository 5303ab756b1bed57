"""Cell codes: building them from a run and imagery, their calibration, the folder that holds them.

A code is the cell's aerial embedding plus kappa times its prototype; a cell with one of them has a code too.
"""

from cellcode.database import build, compress, grow, reshape
from cellcode.database.calibration import Calibration
from cellcode.database.database import Database

__all__ = ["Calibration", "Database", "build", "compress", "grow", "reshape"]
