"""Views of panoramas as files: written once, and found again by the next run."""

import hashlib
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
        root: the folder of the panoramas.
    """

    rule: PanoramaRule
    folder: Path
    root: Path

    def views(
        self, source: Path, heading_deg: float | None, panorama: Panorama
    ) -> list[tuple[Path, dict[str, float | None]]]:
        """Return file, size, field of view and heading of each view. Those that exist are neither read nor written.

        Args:
            source: file of the panorama.
            heading_deg: of its middle; None: unknown, and then so are those of the views.

        Raises:
            PhotoError: the panorama is damaged, or shows none of the views.
        """
        pose = (heading_deg or 0.0, panorama.pitch_deg, panorama.roll_deg, panorama.area)
        headings = headings_shown(self.rule, *pose)
        if not headings:
            raise PhotoError(f"{source}: a cropped panorama that shows none of the views; choose others")
        # With the suffix of the panorama: a.jpg and a.png may lie side by side.
        name = source.relative_to(self.root).as_posix()
        files = {each: self.folder / f"{name}_h{round(each * 10) % 3600:04d}.jpg" for each in headings}
        digest = _digest(self.rule, pose, source)
        if not all(_is_of(path, digest) for path in files.values()):
            for each, view in cut(read_image(source), self.rule, *pose):
                with atomic_path(files[each]) as temporary:
                    view.save(temporary, "JPEG", quality=_QUALITY, comment=digest)
        size = {"width_px": self.rule.width_px, "height_px": self.rule.height_px, "fov_deg": self.rule.fov_deg}
        return [(path, {**size, "heading_deg": None if heading_deg is None else each}) for each, path in files.items()]


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
