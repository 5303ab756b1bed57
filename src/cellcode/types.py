"""Array types of the whole system. Shapes are in docstrings; numpy has no types for them.

`Ids` are S2 cell ids; `Ranges` are (R, 2) first and last ids of one level, both inclusive.
"""

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Datetimes = npt.NDArray[np.datetime64]
Strings = npt.NDArray[np.str_]
Ids = UInt64
Ranges = UInt64
