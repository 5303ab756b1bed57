"""The page: every number of the stages in results.json, the tables in results.md, the figures beside it."""

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from cellcode.evaluation import figures
from cellcode.files import atomic_path
from experiments import claims, rows, scaling, scaling_figure, verdicts
from experiments.plan import Plan
from experiments.stages import Done

PAGE = "results.md"
TEMPLATE = Path(__file__).with_name("results.md.j2")
PACKAGES = ("torch", "numpy", "pyarrow", "rasterio", "faiss-cpu")


def collect(plan: Plan, parts: Mapping[str, Done | str], stages: Mapping[str, Done | str]) -> dict[str, Any]:
    """Return everything that results.json holds.

    Args:
        parts: finished stages, or why they failed, by the page's name of them.
        stages: all stages by their own name, for their times.
    """
    found = {name: part.values for name, part in parts.items() if isinstance(part, Done)}
    folders = {name: part.folder for name, part in parts.items() if isinstance(part, Done)}
    made = {name: stage.values for name, stage in stages.items() if isinstance(stage, Done)}
    values: dict[str, Any] = {
        "plan": asdict(plan),
        "versions": {"cellcode": version("cellcode"), "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "machine": machine(),
        "sources": dict(Counter(stage.source for stage in stages.values() if isinstance(stage, Done))),
        "seconds": {name: stage.seconds for name, stage in sorted(stages.items()) if isinstance(stage, Done)},
        "failed": {name: stage for name, stage in stages.items() if isinstance(stage, str)},
        "region": {**made.get("region", {}), **made.get("build-hybrid", {})},
        "same_area": rows.systems(found, "same"),
        "cross_area": rows.systems(found, "cross"),
        "other_country": rows.country(found),
        "slices": rows.slices(found),
        "confidence": found.get("same", {}).get("confidence"),
        "strangers": found.get("strangers"),
        "calibrations": found.get("calibrations"),
        "seeds": rows.seeds(plan, found, folders),
        "ablations": (ablations := rows.ablations(plan, found, folders)),
        "verdicts": verdicts.all_of(ablations),
        "scaling": (scaled := scaling.table(plan, found, folders)),
        "loss_and_epochs": scaling.catches_up(scaled),
        "together": rows.together(found),
        "growing": found.get("growing"),
        "campus": [value for name, value in found.items() if name.startswith("campus ")],
        "parts": found,
    }
    values["claims"], values["paper"] = claims.check(values), claims.paper(values)
    return values


def write(values: dict[str, Any], folders: Mapping[str, Path], docs: Path) -> None:
    """Write figures/, results.md and results.json; a figure that is not made now is removed.

    results.json has what the page shows, one row per line. What the stages measured besides stays in their own result.json.
    """
    source = folders.get("same-area")
    made = (
        {path.stem: path.read_bytes() for path in sorted((source / "figures").glob("*.png"))}
        if source is not None
        else {}
    )
    if values["scaling"]:
        made |= figures.encode({"scaling": scaling_figure.draw(values["scaling"])})
    text = render(values, [*made])
    for path in (docs / "figures").glob("*"):
        path.unlink()
    for name, picture in made.items():
        with atomic_path(docs / "figures" / f"{name}.webp") as path:
            path.write_bytes(compressed(picture))
    with atomic_path(docs / PAGE) as path:
        path.write_text(text, encoding="utf-8")
    with atomic_path(docs / "results.json") as path:
        path.write_text(by_rows({key: value for key, value in values.items() if key != "parts"}), encoding="utf-8")


def compressed(figure: bytes) -> bytes:
    """Return a PNG as WebP: with 256 colours and no loss, or with some loss where that is smaller."""
    with Image.open(BytesIO(figure)) as image:
        pixels = image.convert("RGB")
    palette = pixels.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    exact, lossy = BytesIO(), BytesIO()
    palette.save(exact, "WEBP", method=6, lossless=True)
    pixels.save(lossy, "WEBP", method=6, quality=80)
    return min(exact.getvalue(), lossy.getvalue(), key=len)


def by_rows(values: dict[str, Any]) -> str:
    """Return JSON with one key per line, and one line per row of a list."""
    lines = []
    for key, value in values.items():
        rows = [json.dumps(row, ensure_ascii=False) for row in value] if isinstance(value, list) and value else None
        text = "[\n    " + ",\n    ".join(rows) + "\n  ]" if rows else json.dumps(value, ensure_ascii=False)
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def render(values: dict[str, Any], figures: list[str]) -> str:
    """Return results.md."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"percent": percent, "signed": signed, "metres": metres, "megabytes": megabytes}
    template = TEMPLATE.read_text(encoding="utf-8")
    return environment.from_string(template).render(**values, figures=figures)


def machine() -> dict[str, Any]:
    """Say what the numbers were made on."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux
        pass
    return {"processor": name, "cores": os.cpu_count(), "system": platform.system()}


def percent(share: float | None) -> str:
    """Return 0.1234 as 12.3; a missing value as a dash."""
    return "–" if share is None else f"{100 * share:.1f}"


def signed(share: float) -> str:
    """Return a difference of shares in points, with its sign."""
    return f"{100 * share:+.1f}"


def metres(value: float | None) -> str:
    """Return a length in metres."""
    return "–" if value is None else f"{value:.0f} m"


def megabytes(value: float | None) -> str:
    """Return bytes in MB; nothing kept as a dash."""
    return f"{value / 1e6:.2f}" if value else "–"
