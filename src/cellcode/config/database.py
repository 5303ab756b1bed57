"""Building and evaluation: what is made of a run."""

from typing import Annotated, Literal

from pydantic import Field

from cellcode.config.base import Frozen, Positive, Share


class BuildConfig(Frozen):
    """From a run to cell codes."""

    upsampling: Literal["copy", "interpolate"] = Field(
        "interpolate", description="prototype of a cell: that of its prototype cell, or interpolated at its centre"
    )
    aerial_smoothing_cells: float = Field(
        0.0, ge=0, le=1, description="deviation of the Gaussian that averages aerial embeddings of neighbouring cells"
    )
    batch_size: int = Field(256, ge=1, description="tiles encoded together")
    min_imagery_share: Share = Field(0.5, description="fraction of a tile that imagery must cover")
    kappa: Annotated[float, Field(ge=0)] | None = Field(
        None, description="fusion weight of the aerial term against the prototype; null: fitted on validation photos"
    )
    unvisited_weight: Share | None = Field(
        None,
        description="weight of validation photos in cells without a prototype; null: their share, or the nearest at which "
        "photos in cells with and without a prototype keep the recall of the better single term",
    )
    impute: bool = Field(
        True, description="give cells with imagery only an imputed prototype; not in the paper, our addition"
    )
    keep_terms: bool = Field(True, description="keep both terms beside the codes, so that the database can grow")
    shard_depth: int = Field(
        8, ge=1, le=12, description="a build is cut into S2 cells this many levels above the cells"
    )
    first_stage: Literal["auto", "cells", "parents", "none"] = Field(
        "auto", description="what the quantised codes of a two-stage search stand for; auto: the cheapest to search"
    )
    first_stage_min_cells: int = Field(
        200_000, ge=1, description="smaller databases are searched exactly, in one stage"
    )


class EvaluationConfig(Frozen):
    """What the tables report."""

    radii_m: tuple[Positive, ...] = Field((100.0, 200.0, 1000.0), description="radii of recall")
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 5, 10, 100), description="ranks of recall")
