"""What figures are drawn from."""

from dataclasses import dataclass
from typing import Any

from cellcode.aerial import AerialSource
from cellcode.database import Database
from cellcode.evaluation.confidence import Checked, Stated
from cellcode.evaluation.metrics import Result
from cellcode.photos import PhotoTable
from cellcode.types import Bools, Float32


class CannotDrawError(Exception):
    """The database or the photos lack what a figure shows; the sentence says what."""


@dataclass(frozen=True)
class Material:
    """An evaluation, as figures need it.

    Attributes:
        database: that was measured.
        table: the N tested photos.
        queries: (N, D) float32, the photos as the ground encoder sees them.
        results: of the systems, the hybrid first.
        checked: the answers beside the truth.
        seen: (N,) bool, the prototype-level cell of the photo has training photos.
        values: report.json.
        aerial: imagery for the gallery; None: photos only.
        out_of_region: answers to out-of-region photos; None: there are none.
    """

    database: Database
    table: PhotoTable
    queries: Float32
    results: list[Result]
    checked: Checked
    seen: Bools
    values: dict[str, Any]
    aerial: AerialSource | None = None
    out_of_region: Stated | None = None

    @property
    def hybrid(self) -> Result:
        """How the database did."""
        return self.results[0]

    @property
    def radius_m(self) -> float:
        """The middle radius: within it a photo counts as found."""
        return float(self.values["confidence"]["radius_m"])
