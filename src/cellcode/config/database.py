"""Building and evaluation: what is made of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cellcode.config.base import Frozen, Positive, Share


class BuildConfig(Frozen):
    """From a run to cell codes."""

    upsampling: Literal["copy", "interpolate"] = "interpolate"
    aerial_smoothing_cells: float = Field(
        0.0, ge=0, le=1, description="deviation of the Gaussian that averages aerial embeddings of neighbouring cells"
    )
    batch_size: int = Field(256, ge=1)
    min_imagery_share: Share = 0.5
    kappa: Annotated[float, Field(ge=0)] | None = Field(None, description="given, it is used instead of being fitted")
    unvisited_weight: Share | None = Field(
        None,
        description="weight of validation photos in cells without a prototype; none given: their share, or the nearest at "
        "which photos of both kinds of cells keep what a single term finds",
    )
    impute: bool = Field(
        True, description="cells with imagery only get a prototype guessed from it; not in the paper, our addition"
    )
    keep_terms: bool = True
    shard_depth: int = Field(8, ge=1, le=12, description="a build goes over S2 cells this many levels above the cells")
    first_stage: Literal["auto", "cells", "parents", "none"] = Field(
        "auto",
        description="what quantised codes stand for in the first stage of a search; auto: what searches cheapest",
    )
    first_stage_min_cells: int = Field(200_000, ge=1, description="smaller databases are searched exactly, without one")


class EvaluationConfig(Frozen):
    """What the tables report."""

    radii_m: tuple[Positive, ...] = (100.0, 200.0, 1000.0)
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = (1, 5, 10, 100)
