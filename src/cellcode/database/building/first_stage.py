"""Which first stage of the search a database gets: several are tried, brute force on validation photos decides."""

import itertools
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from cellcode.config import BuildConfig
from cellcode.database.store import layout
from cellcode.geography import s2
from cellcode.index import first_stage, tune
from cellcode.index.codeset import CodeSet
from cellcode.index.first_stage import Builder, FirstStage
from cellcode.progress import Meter
from cellcode.types import Float16, Float32

logger = logging.getLogger(__name__)
BLOCK, SAMPLE = 65536, 65536  # codes widened at a time, and those that directions and centroids are found on
MIN_QUERIES = 200  # fewer cannot tell 99.5 %
MAX_CHECKED = 512  # queries that are answered by brute force


def make(
    codes: CodeSet, queries: Float32, rule: BuildConfig, folder: Path, level: int, seed: int
) -> tune.Settings | None:
    """Write the first stage that searches cheapest while it keeps what brute force finds, and return its settings.

    Several are tried, over cells and over the means of parents, the smallest first; `tune.check` decides whether one is
    good enough. If none is (the database is small or has few validation photos), nothing is written and searches are exact.
    """
    if rule.first_stage == "none" or len(codes) < max(rule.first_stage_min_cells, tune.LADDER[0]):
        return None
    if len(queries) < 2 * MIN_QUERIES:  # half of them check what the others made
        logger.info(
            f"search: {len(queries)} validation photos cannot make and check a first stage (at least {2 * MIN_QUERIES}), so "
            "the database is searched exactly"
        )
        return None
    tuning, checking = queries[::2], queries[1::2][:MAX_CHECKED]
    truth = tune.brute_force(codes, checking)
    best: tuple[float, FirstStage, tune.Settings] | None = None
    for over, dims, levels in _choices(codes.dim, rule):
        starts = _starts(codes, over, level)
        entries = len(codes) if starts is None else len(starts) - 1
        if best is not None and entries * dims * levels / 4 > best[0]:
            continue  # reading it alone costs more than the best so far
        stage = _fill(first_stage.train(_sample(codes, starts), tuning, dims, levels, seed), codes, starts)
        settings = tune.check(stage, checking, truth)
        price = tune.cost(settings, settings.entries_for(100), len(codes))
        logger.info("search: %s", _describe(stage, settings))
        if best is None or price < best[0]:
            best = (price, stage, settings)
    assert best is not None
    price, stage, settings = best
    if math.isinf(price):
        logger.info("search: no first stage keeps what brute force finds, so the database is searched exactly")
        return None
    _save(stage, folder)
    return settings


def refill(
    stage: FirstStage | None, codes: CodeSet, queries: Float32, rule: BuildConfig, folder: Path, level: int
) -> tune.Settings | None:
    """Write a first stage of other cells with the directions and centroids of `stage`; return its settings, checked again."""
    if stage is None or len(codes) < rule.first_stage_min_cells:
        return None
    filled, checking = _fill(stage.like(), codes, _starts(codes, stage.over, level)), queries[1::2][:MAX_CHECKED]
    settings = tune.check(filled, checking, tune.brute_force(codes, checking))
    if settings.entries_for(1) is None:
        return None
    _save(filled, folder)
    return settings


def _starts(codes: CodeSet, over: first_stage.Over, level: int) -> first_stage.Starts | None:
    """Return the first rows of the parents of cells; None for a stage over cells."""
    return first_stage.parent_starts(s2.parents(codes.ids, max(level - 1, 0))) if over == "parents" else None


def _save(stage: FirstStage, folder: Path) -> None:
    stage.save(folder / layout.FIRST_STAGE)
    np.save(folder / layout.DIRECTIONS, np.stack(stage.directions))
    if stage.starts is not None:
        np.save(folder / layout.STARTS, stage.starts.astype(np.uint32))


def _choices(dim: int, rule: BuildConfig) -> Iterator[tuple[first_stage.Over, int, int]]:
    """Yield what to try, smallest first: over what, components, levels."""
    kinds: tuple[first_stage.Over, ...] = ("parents", "cells")
    for over, shrink in itertools.product(kinds, (8, 4, 2, 1)):
        dims = dim // shrink
        if rule.first_stage in ("auto", over) and dims >= 2 and dims % 2 == 0:
            yield over, dims, 2


def _sample(codes: CodeSet, starts: first_stage.Starts | None) -> Float32:
    """Codes of evenly spaced entries."""
    count = len(codes) if starts is None else len(starts) - 1
    chosen = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))
    if starts is None:
        return codes.exact[chosen].astype(np.float32)
    rows = first_stage.expand(starts, chosen)
    sizes = (starts[chosen + 1] - starts[chosen]).astype(np.int64)
    return first_stage.means(codes.exact[rows].astype(np.float32), np.concatenate([[0], np.cumsum(sizes)]))


def _fill(builder: Builder, codes: CodeSet, starts: first_stage.Starts | None) -> FirstStage:
    """Add every entry, block by block; blocks end where entries do."""
    count = len(codes) if starts is None else len(starts) - 1
    block_entries = BLOCK if starts is None else BLOCK // 4
    with Meter("quantising codes", count) as meter:
        for first in range(0, count, block_entries):
            last = min(first + block_entries, count)
            if starts is None:
                builder.add(_widened(codes.exact[first:last]))
            else:
                block = _widened(codes.exact[int(starts[first]) : int(starts[last])])
                builder.add(first_stage.means(block, starts[first : last + 1] - starts[first]))
            meter.advance(last - first)
    return builder.made(starts)


def _widened(codes: Float16) -> Float32:
    """Return codes as float32; torch does it several times faster than numpy."""
    return np.asarray(torch.from_numpy(np.array(codes)).float().numpy())


def _describe(stage: FirstStage, settings: tune.Settings) -> str:
    found = ((settings.kept[k], k, count) for k, count in settings.entries.items())
    kept = ", ".join(f"{share:.2%} of the {k} best with {count} scored again" for share, k, count in found)
    return f"{stage.entry_bytes} bytes per {stage.over[:-1]}: {kept or 'does not keep the best'}"
