"""Ways to let cells with both terms, with imagery alone and with a prototype alone compete, each fitted and compared.

All are fitted in the same way, by likelihood on validation photos (`database.likelihood` has the fit of the default), and
reported on others. The paper has the plain sum with a fitted kappa; everything else is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellcode.database import Database
from cellcode.database.building.write import RADIUS_CELLS
from cellcode.database.calibration import tradeoff
from cellcode.database.calibration.regressions import Imputation
from cellcode.database.calibration.similarity import MAX_ENTRIES, Similarities, Terms, compare
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.progress import Meter
from cellcode.runs import Validation
from cellcode.types import Float32

FIT_ENTRIES = 1 << 21  # photos x cells of a fit
STEPS = 30


@dataclass(frozen=True)
class Channels:
    """What scores are made of: photos against cells (V, M), and what is known of cells (M,).

    Attributes:
        aerial, prototypes: similarities to the terms, 0 where a cell lacks one.
        imputed: to the prototype imputed from the aerial embedding, in every cell with imagery.
        mean_aerial, mean_prototypes: of the terms to the validation photos, on average.
        kind: 0 both terms, 1 imagery alone, 2 prototype alone.
        photos: training photos of the cell's parent.
        near: the cell is within the radius of the photo.
    """

    aerial: Tensor
    prototypes: Tensor
    imputed: Tensor
    mean_aerial: Tensor
    mean_prototypes: Tensor
    kind: Tensor
    photos: Tensor
    near: Tensor

    def some(self, rows: slice) -> Channels:
        """The channels of some photos."""
        names = ("aerial", "prototypes", "imputed", "near")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def by_kind(self, *values: Tensor | float) -> Tensor:
        """One value for each kind, spread over the cells."""
        return torch.stack([torch.as_tensor(value, dtype=torch.float32) for value in values])[self.kind]


Score = Callable[[Channels, Tensor], Tensor]  # (V, M) from the channels and the logarithms (or biases) that are fitted


@dataclass(frozen=True)
class Method:
    """One way.

    Attributes:
        name: of its row.
        start: of its parameters; the first is that of the temperature.
        score: scores in units of the temperature.
        search: what it changes beside the values of the codes.
    """

    name: str
    start: tuple[float, ...]
    score: Score
    search: str = "nothing"


def _plain(c: Channels, p: Tensor) -> Tensor:
    return p[0].exp() * (c.aerial + c.prototypes)


def _kappa(c: Channels, p: Tensor) -> Tensor:
    return p[0].exp() * (c.aerial + p[1].exp() * c.prototypes)


def _scale(c: Channels, p: Tensor) -> Tensor:
    on_aerial, on_prototypes = c.by_kind(1, p[2].exp(), 0), c.by_kind(p[1].exp(), 0, 1)
    return p[0].exp() * (c.aerial * on_aerial + c.prototypes * on_prototypes)


def _scale_bias(c: Channels, p: Tensor) -> Tensor:
    return _scale(c, p) + p[0].exp() * c.by_kind(0, p[3], 0)


def _centred(c: Channels, p: Tensor) -> Tensor:
    moved = replace(c, aerial=c.aerial - p[3] * c.mean_aerial, prototypes=c.prototypes - p[3] * c.mean_prototypes)
    return _scale(moved, p)


def _z_score(c: Channels, p: Tensor, background: Channels) -> Tensor:
    sums = background.aerial + p[1].exp() * background.prototypes
    own = c.aerial + p[1].exp() * c.prototypes
    return p[0].exp() * c.by_kind(1, p[2].exp(), 1) * (own - sums.mean(dim=0)) / sums.std(dim=0).clamp(min=1e-6)


def _shrunk(c: Channels, p: Tensor) -> Tensor:
    return _scale(replace(c, prototypes=c.prototypes * c.photos / (c.photos + p[3].exp())), p)


def _imputed(c: Channels, p: Tensor) -> Tensor:
    return _scale(c, torch.cat([p[:2], torch.zeros(1)])) + p[0].exp() * c.imputed * c.by_kind(0, p[2].exp(), 0)


def _scale_imputed(c: Channels, p: Tensor) -> Tensor:
    return _scale(c, p) + p[0].exp() * c.imputed * c.by_kind(0, p[3].exp(), 0)


def _scale_bias_imputed(c: Channels, p: Tensor) -> Tensor:
    return _scale_imputed(c, p) + p[0].exp() * c.by_kind(0, p[4], 0)


def _shrunk_to_imputed(c: Channels, p: Tensor) -> Tensor:
    share = c.photos / (c.photos + p[4].exp())
    mixed = torch.where(c.kind == 0, share * c.prototypes + (1 - share) * c.imputed, c.prototypes)
    return _scale_imputed(replace(c, prototypes=mixed), p)


def methods(background: Channels) -> list[Method]:
    """Return all of them; z-scores are over the photos of `background`."""

    def z_score(c: Channels, p: Tensor) -> Tensor:
        return _z_score(c, p, background)

    offset, moved = "an offset a cell: one more dimension", "the query: a constant is taken from it"
    return [
        Method("plain sum, kappa 1", (2.5,), _plain),
        Method("fitted kappa", (2.5, 0.0), _kappa),
        Method("a factor a kind", (2.5, 0.2, 0.5), _scale),
        Method("a factor and a bias a kind", (2.5, 0.2, 0.7, -0.1), _scale_bias, offset),
        Method("a factor a kind, less the mean over background photos", (2.5, 0.0, 0.5, -0.1), _centred, moved),
        Method("z-score over background photos, a factor a kind", (1.0, 0.0, 0.1), z_score, moved),
        Method("a factor a kind, prototypes shrunk by n / (n + n0)", (2.5, 0.2, 0.5, 0.0), _shrunk),
        Method("imputed prototypes", (2.5, 0.4, 0.4), _imputed),
        Method("imputed prototypes, a factor a kind (the default)", (2.5, 0.4, 0.2, 0.4), _scale_imputed),
        Method("imputed prototypes, a factor and a bias a kind", (2.5, 0.4, 0.3, 0.4, 0.0), _scale_bias_imputed, offset),
        Method("imputed prototypes, a factor a kind, prototypes shrunk to them", (2.5, 0.4, 0.2, 0.4, 0.0), _shrunk_to_imputed),
    ]  # fmt: skip


def compare_methods(
    database: Database, validation: Validation, test: Validation, unvisited_weight: float | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Fit every method on validation photos and report on test photos.

    Args:
        database: with its terms; its own calibration is not used.
        validation, test: embedded photos and their positions.
        unvisited_weight: weight in the fit of validation photos whose nearest cell has no prototype; None: that of the
            database, or their share if it has none.
        seed: of the choice of photos and cells where there are too many.

    Returns:
        Rows: `method`, `search` (what it changes beside the codes' values), `parameters` (how many), and for "validation" and
        "test" the log-likelihood and recall@1 within the radius of all photos, of those `with_prototype` and
        `without_prototype`. The first two rows are the terms alone.

    Raises:
        InputError: the database keeps no terms, or has only one of them.
    """
    aerial, prototypes = database.terms()
    if aerial is None or prototypes is None:
        raise InputError(f"{database.folder} does not keep both terms of its codes; build it with build.keep_terms")
    terms = Terms(aerial, prototypes, database.facts.has_aerial, database.facts.has_prototype)
    if unvisited_weight is None:
        unvisited_weight = database.manifest["calibration_report"].get("unvisited_weight")
    known, asked = (_compared(database, terms, photos, seed) for photos in (validation, test))
    mean = known[1].aerial.mean(dim=0), known[1].prototypes.mean(dim=0)
    fitted_on, reported = (replace(each, mean_aerial=mean[0], mean_prototypes=mean[1]) for each in (known[1], asked[1]))
    weights = _weights(known[0], unvisited_weight)
    rows = [_single(name, known[0], asked[0]) for name in ("prototypes", "aerial")]
    every = methods(fitted_on)
    with Meter("comparing calibrations", len(every)) as meter:
        for method in every:
            found = _fit(method, fitted_on, weights)
            with torch.no_grad():
                scores = {"validation": method.score(fitted_on, found), "test": method.score(reported, found)}
            row: dict[str, Any] = {"method": method.name, "search": method.search, "parameters": len(method.start)}
            for name, s, c in (("validation", known[0], fitted_on), ("test", asked[0], reported)):
                likely = -float(_loss(scores[name], c.near, torch.full((s.photos,), 1 / s.photos)))
                row[name] = {"log_likelihood": round(likely, 4), **tradeoff.recall(s, scores[name].numpy())}
            rows.append(row)
            meter.advance(1)
    return rows


def measure(folder: Path, needs: dict[str, Path], *, built: str) -> dict[str, Any]:
    """The work of a stage: the table of the benchmark's database, on its test photos of the same area."""
    from cellcode.evaluation.systems import embed
    from cellcode.search import Locator
    from experiments import measures, trainings, worlds

    database = measures.opened(needs[built])
    run = trainings.trained(needs[built.replace("build-", "train-")])
    table = worlds.parts(needs["region"]).same_area
    asked, good, _, _ = embed(Locator(database), table.files, "reading tested photos")
    test = Validation(table.lat_deg[good], table.lon_deg[good], asked)
    weight = database.manifest["calibration_report"].get("unvisited_weight")
    return {"unvisited_weight": weight, "rows": compare_methods(database, run.validation, test)}


def _compared(database: Database, terms: Terms, photos: Validation, seed: int) -> tuple[Similarities, Channels]:
    """Compare photos with every cell: as many of them, at random, as then fit into memory."""
    ids, radius_m = np.asarray(database.ids), RADIUS_CELLS * s2.mean_edge_m(database.level)
    rows = np.random.default_rng([seed, 8]).permutation(len(photos.queries))[: max(1, MAX_ENTRIES // len(ids))]
    chosen = Validation(*(getattr(photos, name)[rows] for name in ("lat_deg", "lon_deg", "queries")))
    s, guess = compare(chosen, ids, terms, radius_m, seed), Imputation.fit(terms)
    imputed = np.zeros_like(s.aerial)
    if guess is not None and terms.aerial is not None:
        guessed = guess.of(terms.aerial) * terms.has_aerial[:, None]
        imputed = compare(chosen, ids, terms._replace(aerial=guessed, prototypes=None), radius_m, seed).aerial
    return s, Channels(
        aerial=torch.from_numpy(s.aerial),
        prototypes=torch.from_numpy(s.prototypes),
        imputed=torch.from_numpy(imputed),
        mean_aerial=torch.zeros(1),
        mean_prototypes=torch.zeros(1),
        kind=torch.from_numpy(s.kind),
        photos=torch.from_numpy(_photos_of_parents(database)),
        near=torch.from_numpy(s.near),
    )


def _photos_of_parents(database: Database) -> Float32:
    """Training photos in the prototype cell of each cell, (N,)."""
    parents = s2.parents(np.asarray(database.ids), int(database.manifest["levels"]["prototype"]))
    _, parent = np.unique(parents, return_inverse=True)
    return np.bincount(parent, weights=database.facts.photos)[parent].astype(np.float32)


def _weights(s: Similarities, unvisited_weight: float | None) -> Tensor:
    """Weights of photos, (V,), sum 1."""
    unvisited = ~s.visited
    share = float(unvisited.mean())
    weight = share if unvisited_weight is None else unvisited_weight
    each = np.where(unvisited, weight / max(share, 1e-9), (1 - weight) / max(1 - share, 1e-9)) / len(unvisited)
    return torch.from_numpy((each / each.sum()).astype(np.float32))


def _single(name: str, *compared: Similarities) -> dict[str, Any]:
    found = [tradeoff.singles(s).get(name) for s in compared]
    row: dict[str, Any] = {"method": f"{name} alone", "search": "nothing", "parameters": 0}
    return row | dict(zip(("validation", "test"), found, strict=True))


def _fit(method: Method, channels: Channels, weights: Tensor) -> Tensor:
    """Return the parameters of largest likelihood on (at most FIT_ENTRIES of) the photos and cells."""
    rows = slice(None, None, max(1, -(-channels.near.numel() // FIT_ENTRIES)))
    few, share = channels.some(rows), weights[rows] / weights[rows].sum()
    point = torch.tensor(method.start, requires_grad=True)
    optimiser = torch.optim.LBFGS([point], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-6)

    def closure() -> Tensor:
        optimiser.zero_grad()
        # The second term only keeps from infinity what the photos do not tell.
        loss = _loss(method.score(few, point), few.near, share) + 1e-4 * (point**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return point.detach()


def _loss(logits: Tensor, near: Tensor, weights: Tensor) -> Tensor:
    inside = logits.masked_fill(~near, -math.inf).logsumexp(dim=1)
    return (weights * (logits.logsumexp(dim=1) - inside)).sum()
