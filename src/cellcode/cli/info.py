"""Commands that show what is there: photo tables, runs, databases, rasters; and configurations."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from cellcode.cli.common import Overrides


def info(
    path: Annotated[Path, Argument(help="A photo table, a run, a database or a raster.")],
    other: Annotated[Path | None, Argument(help="A second database to compare with.")] = None,
    verify: Annotated[bool, Option("--verify", help="Read all of it and compare every file with its digest.")] = False,
) -> None:
    """Summarise a photo table, packed photos, a run, a database or a raster; or compare two databases."""
    from cellcode.database import Database
    from cellcode.database.store.database import differences

    if other is not None:
        databases = [Database.open(each) for each in (path, other)]
        for database in databases if verify else ():
            database.verify()
        lines = differences(*databases)
    else:
        lines = _raster(path) if path.is_file() else _lines(path, verify)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name.ljust(width)}  {value}")


Lines = list[tuple[str, str]]


def _lines(path: Path, verify: bool) -> Lines:
    from cellcode.database.store.shards import open_database
    from cellcode.errors import InputError
    from cellcode.files import read_json, recovered
    from cellcode.photos import PhotoTable
    from cellcode.photos.packed.shards import PackedPhotos, is_packed

    if (path / "run.json").is_file():
        return _run(path, verify)
    if is_packed(path):
        packed = PackedPhotos.open(path)
        if verify:
            packed.verify()
        return _packed(packed)
    recovered(path)
    manifest = read_json(path / "manifest.json") if (path / "manifest.json").is_file() else {}
    kind = manifest.get("format") if isinstance(manifest, dict) else None
    if kind == "cellcode-photos":
        table = PhotoTable.load(path)
        if verify:
            table.verify()
        return _photos(manifest, table, path)
    if kind != "cellcode-database" and not any(path.glob("*/manifest.json")):
        raise InputError(f"{path} holds no photo table, packed photos, run or database")
    database = open_database(path)
    if verify:
        database.verify()
    return _database(database, path)


def _photos(manifest: dict[str, Any], table: Any, path: Path) -> Lines:
    import numpy as np

    days = np.unique(table.captured_at[~np.isnat(table.captured_at)].astype("datetime64[D]"))
    headings = int(np.isfinite(table.heading_deg).sum())
    rejected, missing = (
        "; ".join(f"{count} {reason}" for reason, count in (manifest.get(name) or {}).items()) or "none"
        for name in ("rejected", "missing")
    )
    return [
        ("photo table", str(path)),
        ("photos", f"{len(table)} ({', '.join(f'{count} {name}' for name, count in manifest['splits'].items())})"),
        ("bounds", _bounds(manifest["bounds"])),
        ("dates", f"{len(days)} days, {days[0]} to {days[-1]}" if len(days) else "unknown"),
        ("with heading", str(headings)),
        ("devices", str(len({name for name in table.column("device") if name}))),
        ("rejected", rejected),
        ("missing", missing),
        ("split rule", str(manifest.get("split_rule") or "the list's own")),
        *_terms(manifest),
        ("files in", str((path / manifest["root"]).resolve())),
    ]


def _packed(packed: Any) -> Lines:
    manifest = packed.manifest
    return [
        ("packed photos", f"{manifest['identity']} in {packed.place}"),
        (
            "photos",
            f"{manifest['photos']} ({', '.join(f'{count} {name}' for name, count in manifest['splits'].items())})",
        ),
        ("bounds", _bounds(manifest["bounds"])),
        ("left out", str(len(manifest["rejected"]))),
        *_terms(manifest),
    ]


def _run(path: Path, verify: bool) -> Lines:
    from cellcode import config as configuration
    from cellcode.runs import Run
    from cellcode.runs.run import KIND

    manifest = KIND.read(path / "run.json")
    if verify:
        Run.load(path)
    else:
        KIND.check(path, manifest.get("files", {}))
    config = configuration.load_saved(path / "config.yaml")
    prototypes = manifest["prototypes"]
    return [
        ("run", f"{manifest['identity']} in {path}"),
        ("configuration", f"{manifest['name']}, {config.training.regime} training, {config.training.epochs} epochs"),
        ("ground encoder", _encoder(config.model.ground, config.model.dim)),
        ("aerial encoder", _encoder(config.model.aerial, config.model.dim) if manifest["has_aerial"] else "none"),
        ("prototypes", f"{prototypes} of level {config.levels.prototype}" if prototypes is not None else "none"),
        ("photos", f"{manifest['training_photos']} for training, {manifest['validation_photos']} for validation"),
        ("bounds", _bounds(manifest["bounds"])),
        *_terms(manifest),
    ]


def _database(database: Any, path: Path) -> Lines:
    manifest, calibration = database.manifest, database.calibration
    cells = manifest["cells"]
    kinds = f"{cells['both']} with both terms, {cells['aerial_only']} imagery only, {cells['prototype_only']} prototype only"
    size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    dtype = f"{manifest['dim']} x {manifest['codes']['dtype']}"
    return [
        ("database", f"{manifest['identity']} in {path}"),
        ("run", f"{manifest['run']['name']} ({manifest['run']['identity']})"),
        ("cells", f"{cells['total']} of level {manifest['levels']['cell']} ({kinds})"),
        ("codes", f"{dtype}, {database.bytes / 1e6:.2f} MB with ids; folder {size / 1e6:.2f} MB"),
        ("rounding", _rounding(manifest["codes"])),
        ("search", _search(database)),
        ("made from", _made_from(manifest.get("made_from"))),
        ("bounds", _bounds(manifest["bounds"])),
        ("kappa", f"{calibration.kappa:.3g} ({calibration.photos} validation photos)"),
        ("factors", f"{calibration.aerial_only:.3g} imagery only, {calibration.prototype_only:.3g} prototype only"),
        ("imputed prototypes", f"weight {calibration.imputed:.3g}" if calibration.imputed else "none"),
        ("temperature", f"{calibration.temperature:.3g}"),
        ("outside below", _outside(calibration.outside_score, calibration.inside)),
        ("imagery", str((manifest["imagery"] or {}).get("date") or "none or undated")),
        ("training photos", str(manifest["training_photos"])),
        *_terms(manifest),
    ]


def _outside(score: float | None, inside: Any) -> str:
    if inside is not None:
        return f"probability {inside.threshold:.3g} of being inside"
    return "unknown" if score is None else f"score {score:.3g}"


def _rounding(codes: dict[str, Any]) -> str:
    if codes.get("agreement_at_1") is not None:
        return f"the best cell is that of the float16 codes for {codes['agreement_at_1']:.1%} of the validation photos"
    if codes["largest_score_error"] is None:
        return "unknown"
    return (
        f"a score differs by at most {codes['largest_score_error']:.1e}; int8 codes by {codes['int8_error']:.1e} more"
    )


def _search(database: Any) -> str:
    settings = database.search_settings
    if settings is None:
        return "exact: every cell is compared"
    size = settings.entry_bytes * settings.stage_entries / 1e6
    kept = ", ".join(f"{share:.2%} of the {k} best" for k, share in settings.kept.items())
    return f"two stages, {size:.1f} MB over {settings.over}: keeps {kept} ({settings.queries} validation photos)"


def _made_from(origin: dict[str, Any] | None) -> str:
    return f"{origin['how']} of {', '.join(origin['databases'])}" if origin else "a run and imagery"


def _raster(path: Path) -> Lines:
    from cellcode.aerial import open_source

    source = open_source(path)
    return [
        ("aerial imagery", str(path)),
        ("bounds", _bounds(source.bounds)),
        ("area", f"{source.footprint().area_m2() / 1e6:.2f} km2"),
        ("date", source.date or "unknown"),
        ("licence", source.licence or "not stated"),
        ("attribution", source.attribution or "not stated"),
    ]


def _terms(manifest: dict[str, Any]) -> Lines:
    return [
        ("licences", ", ".join(manifest["licences"]) or "not stated"),
        ("attributions", "; ".join(manifest["attributions"][:5]) or "not stated"),
    ]


def _encoder(encoder: Any, dim: int) -> str:
    return f"{encoder.backbone}, {encoder.aggregation.name}, {dim} dimensions"


def _bounds(bounds: Any) -> str:
    west, south, east, north = bounds
    return f"{south:.5f} to {north:.5f} N, {west:.5f} to {east:.5f} E"


config = typer.Typer(name="config", help="List, print and check configurations.", no_args_is_help=True)


@config.command(name="list")
def list_shipped() -> None:
    """List the shipped configurations."""
    from cellcode.config import shipped

    names = shipped()
    for name, line in names.items():
        print(f"{name.ljust(max(map(len, names)))}  {line}")


@config.command()
def show(
    name: Annotated[Path, Argument(help="Name of a shipped configuration, or a YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Print a complete configuration: the file, what it extends, and the defaults."""
    from cellcode import config as configuration

    print(configuration.dump(configuration.load(name, overrides or ()), machine=True), end="")


@config.command()
def check(file: Annotated[Path, Argument(help="A YAML configuration.")]) -> None:
    """Check a configuration: exit status 2 if a key or value is wrong, 1 if the file cannot be read."""
    from cellcode import config as configuration

    configuration.load(file)
    print(f"{file}: valid")
