"""Views of panoramas as files: written once, and found again by the next run."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cellcode.files import atomic_path
from cellcode.photos.reading.image import PhotoError, read_image
from cellcode.photos.reading.panorama import PanoramaRule, cut, headings_shown
from cellcode.photos.reading.xmp import Panorama

_QUALITY = 90


@dataclass(frozen=True)
class Cutter:
    """Cuts the panoramas of a folder.

    Attributes:
        folder: where the views go, `NAME_hHHHH.jpg` with the heading in tenths of a degree, under the panorama's own path.
        root: the folder of the panoramas, that `file` of rows is relative to.
    """

    rule: PanoramaRule
    folder: Path
    root: Path

    def rows(self, row: dict[str, Any], panorama: Panorama) -> list[dict[str, Any]]:
        """Return a row for each view of a panorama. Of views that are there already, nothing is read or written.

        Args:
            row: of the panorama: `heading_deg` is that of its middle or None, and everything that is not of the view is
                carried over.

        Raises:
            PhotoError: the panorama is damaged, or shows none of the views.
        """
        source = self.root / row["file"]
        middle_deg, known = row["heading_deg"] or 0.0, row["heading_deg"] is not None
        pose = (middle_deg, panorama.pitch_deg, panorama.roll_deg, panorama.area)
        headings = headings_shown(self.rule, *pose)
        if not headings:
            raise PhotoError(f"{source}: a cropped panorama that shows none of the views; ask for other ones")
        files = {heading: self._path(row["file"], heading) for heading in headings}
        digest = _digest(self.rule, pose, source)
        if not all(_is_of(path, digest) for path in files.values()):
            for heading, view in cut(read_image(source), self.rule, *pose):
                with atomic_path(files[heading]) as temporary:
                    view.save(temporary, "JPEG", quality=_QUALITY, comment=digest)
        size = {"width_px": self.rule.width_px, "height_px": self.rule.height_px, "fov_deg": self.rule.fov_deg}
        return [
            {**row, **size, "file": self._relative(path), "heading_deg": heading if known else None}
            for heading, path in files.items()
        ]

    def _path(self, file: str, heading_deg: float) -> Path:
        # With the suffix of the panorama: a.jpg and a.png may lie side by side.
        return self.folder / f"{file}_h{round(heading_deg * 10) % 3600:04d}.jpg"

    def _relative(self, path: Path) -> str:
        try:
            return Path(os.path.relpath(path.resolve(), self.root.resolve())).as_posix()
        except ValueError:  # another drive
            return path.resolve().as_posix()


def _digest(rule: PanoramaRule, pose: tuple[Any, ...], source: Path) -> bytes:
    """Of all that a view depends on: it lies in the file's comment, so that a view of another rule is not taken for it."""
    stat = source.stat()
    what = repr((rule, pose, stat.st_size, stat.st_mtime_ns, _QUALITY))
    return f"cellcode view {hashlib.sha256(what.encode()).hexdigest()[:16]}".encode()


def _is_of(path: Path, digest: bytes) -> bool:
    try:
        with Image.open(path) as image:
            return bool(image.info.get("comment") == digest)
    except OSError:  # not there, or no image
        return False
