"""How the terms of a cell compare: kappa, factors for cells with one term, and the temperature of the posterior.

The paper gives the sum z^A + kappa z^P and no rule for kappa or for cells that lack a term. A plain sum favours cells
with two terms over cells with one, so that places without training photos are never found. Our choice: cells without a
prototype get one imputed from their aerial embedding, and all weights are fitted together on validation photos, part of
which lie in cells whose training photos were withheld.
"""

import logging
import math
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from cellcode.database.calibration import likelihood, tradeoff
from cellcode.database.calibration.likelihood import Figures, Free
from cellcode.database.calibration.regressions import MIN_CELLS, Imputation, Inside
from cellcode.database.calibration.similarity import Similarities, Terms, compare
from cellcode.runs import Validation
from cellcode.types import Bools, Float32, Ids

logger = logging.getLogger(__name__)
DEFAULT_TEMPERATURE = 0.05  # without validation photos; of the order that training with beta = 50 leaves between places
MIN_PHOTOS = 10  # a group of fewer validation photos fits nothing
INSIDE_SHARE = 0.95  # share of validation photos whose best score counts as inside the region


@dataclass(frozen=True)
class Calibration:
    """Figures that make scores of different cells comparable and turn them into probabilities."""

    kappa: float = 1.0  # weight of the prototype in cells with both terms; the aerial embedding has weight 1
    aerial_only: float = 1.0  # factor on the aerial embedding of cells without a prototype
    prototype_only: float = 1.0  # factor on the prototype of cells without imagery
    temperature: float = DEFAULT_TEMPERATURE  # the posterior of a photo over the cells is softmax(scores / temperature)
    outside_score: float | None = None  # a photo whose best score is lower is taken to be outside; None: not known
    photos: int = 0  # validation photos that the fit used
    imputed: float = 0.0  # weight of the prototype that is imputed for cells without one; 0: none is imputed
    imputation: Imputation | None = None  # the regression that predicts it; None where `imputed` is 0
    # A circle that holds this share of the posterior held 50 % and 90 % of the validation photos; the defaults: not measured.
    share_50: float = 0.5
    share_90: float = 0.9
    inside: Inside | None = None  # tells photos of the region; None where no out-of-region photos were given

    @property
    def knows_radii(self) -> bool:
        """True if enough validation photos have shown how far from their answers photos are."""
        return (self.share_50, self.share_90) != (Calibration.share_50, Calibration.share_90)

    def factors(self, has_aerial: Bools, has_prototype: Bools) -> tuple[Float32, Float32]:
        """Return the weights of the aerial embedding and of the prototype in each cell, two (N,)."""
        aerial = np.where(has_prototype, 1.0, self.aerial_only) * has_aerial
        prototype = np.where(has_aerial, self.kappa, self.prototype_only) * has_prototype
        return aerial.astype(np.float32), prototype.astype(np.float32)

    def scores(self, similarities: Similarities) -> Float32:
        """Return the scores that photos give to cells, (V, M)."""
        s = similarities
        on_aerial, on_prototypes = self.factors(s.has_aerial, s.has_prototype)
        scores = s.aerial * on_aerial + s.prototypes * on_prototypes
        return scores + np.float32(self.imputed) * s.imputed if self.imputed else scores

    def score_error(self, aerial_error: float, prototype_error: float) -> float:
        """Bound the change of any score of a unit query when the rows of both terms change by these distances."""
        fitted = self.imputation
        stretched = self.imputed * float(np.linalg.norm(fitted.weights[:-1], 2)) if fitted is not None else 0.0
        on_aerial = max(1.0, self.aerial_only + stretched) * aerial_error
        return on_aerial + max(self.kappa, self.prototype_only) * prototype_error

    @property
    def comparable(self) -> tuple[float | str | None, ...]:
        """What must be the same for scores of two databases of one run to be comparable."""
        imputation = self.imputation.digest if self.imputation is not None else None
        return self.kappa, self.aerial_only, self.prototype_only, self.imputed, imputation

    def to_json(self) -> dict[str, Any]:
        """Return the figures as the manifest keeps them; the regression of `imputation` is a file, here its digest."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        inside = asdict(self.inside) if self.inside is not None else None
        return values | {
            "imputation": self.imputation.digest if self.imputation is not None else None,
            "inside": inside,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], imputation: Imputation | None = None) -> Self:
        """The inverse of `to_json`; keys that are missing get their default; ValueError: it has another regression."""
        if values.get("imputation") != (imputation.digest if imputation is not None else None):
            raise ValueError("the imputed prototypes are of another database")
        inside = values.get("inside")
        made = Inside.from_json(inside) if inside is not None else None
        return cls(**{**values, "imputation": imputation, "inside": made})


@dataclass(frozen=True)
class _Problem:
    """What is fitted, on which data; see `fit` for the arguments of that name."""

    similarities: Similarities
    imputation: Imputation | None
    free: Free
    cosine: float | None  # mean of z^A . z^P over the cells with both terms; None where there are none
    kappa: float | None

    @cached_property
    def model(self) -> likelihood.Model:
        kappa = 1.0 if self.kappa is None else self.kappa
        return likelihood.Model(self.similarities, self.cosine, self.free, kappa, DEFAULT_TEMPERATURE)

    def solve(self, unvisited_weight: float | None, start: Figures | None) -> tuple[Calibration, Figures]:
        """Return the calibration of largest likelihood under a weight of unvisited photos, and its figures."""
        figures = self.model.maximise(_photo_weights(self.similarities, unvisited_weight), start)
        values = asdict(figures)
        del values["log_likelihood"]
        photos = self.similarities.photos if any(asdict(self.free).values()) else 0
        return Calibration(**values, imputation=self.imputation if figures.imputed else None, photos=photos), figures


def fit(
    validation: Validation,
    ids: Ids,
    terms: Terms,
    *,
    radius_m: float,
    kappa: float | None = None,
    unvisited_weight: float | None = None,
    impute: bool = True,
    seed: int = 0,
) -> tuple[Calibration, dict[str, Any]]:
    """Fit what scores need by maximum likelihood, and report the result; radii and `inside` are fitted by `radii.fit`.

    Maximised is the mean over validation photos of the log of the posterior mass within `radius_m` of the true
    position. Figures that the photos do not determine fall back, with a log record: kappa to 1, factors of cells with
    one term to the mean length of the codes with two (all codes are then equally long), the temperature to its default.

    Args:
        ids: (N,) uint64, the cells of the database.
        radius_m: photos with no cell of the database within it are left out.
        kappa: given, it is used as is.
        unvisited_weight: weight of the photos whose nearest cell has no prototype, 0..1; None: their share, or
            the nearest weight at which both groups of photos reach the recall that they are owed; see `tradeoff`.
        impute: impute prototypes for the cells that have imagery only.
        seed: see `similarity.compare`.

    The second of the results is the manifest's report; see `tradeoff.report`.
    """
    imputation = _imputation(terms) if impute else None
    similarities = compare(validation, ids, terms, radius_m, seed, imputation)
    free = _identifiable(similarities, kappa, imputation is not None)
    for line in _fallbacks(similarities, free, kappa, len(validation.lat_deg)):
        logger.info("calibration: %s", line)
    problem = _Problem(similarities, imputation, free, _mean_cosine(terms), kappa)
    calibration, figures, weight = tradeoff.choose(similarities, problem.solve, unvisited_weight, free.aerial_only)
    scores = calibration.scores(similarities)
    if free.temperature and free.aerial_only and weight is not None:
        # The weight balances cells of both kinds; probabilities are to hold for the photos as they are.
        temperature = likelihood.fit_temperature(similarities, scores, calibration.temperature)
        calibration = replace(calibration, temperature=temperature)
    if similarities.photos >= MIN_PHOTOS:
        top = tradeoff.top_scores(similarities, scores)
        calibration = replace(calibration, outside_score=float(np.quantile(top, 1 - INSIDE_SHARE)))
    report = tradeoff.report(similarities, scores, calibration.prototype_only, radius_m)
    report |= {
        "fitted": asdict(free),
        "unvisited_weight": weight,
        "log_likelihood": figures.log_likelihood,
        "mean_cosine_of_terms": problem.cosine,
    }
    logger.info("%s", _summary(calibration, report))
    return calibration, report


def _imputation(terms: Terms) -> Imputation | None:
    """Fit the regression for cells with imagery only; None if there are none, or too few cells with both terms."""
    if terms.has_prototype.all():
        return None
    imputation = Imputation.fit(terms)
    both, lone = (int((terms.has_aerial & has).sum()) for has in (terms.has_prototype, ~terms.has_prototype))
    if imputation is None and lone and terms.has_prototype.any():
        logger.info(
            f"calibration: {both} cells have both terms, {MIN_CELLS} are needed to impute a prototype for the {lone} cells "
            "with imagery only: none is imputed"
        )
    return imputation


def _photo_weights(similarities: Similarities, unvisited_weight: float | None) -> Float32:
    unvisited = ~similarities.visited
    count = int(unvisited.sum())
    weights = np.full(len(unvisited), 1 / max(len(unvisited), 1), np.float32)
    if unvisited_weight is not None and 0 < count < len(unvisited):
        weights[unvisited] = unvisited_weight / count
        weights[~unvisited] = (1 - unvisited_weight) / (len(unvisited) - count)
    return weights


def _mean_cosine(terms: Terms) -> float | None:
    """Mean of z^A . z^P over (at most 4096, evenly spaced) cells with both; None where there are none."""
    both = np.flatnonzero(terms.has_aerial & terms.has_prototype)
    if terms.aerial is None or terms.prototypes is None or not len(both):
        return None
    rows = both[:: math.ceil(len(both) / 4096)]
    return float((terms.aerial[rows].astype(np.float32) * terms.prototypes[rows].astype(np.float32)).sum(axis=1).mean())


def _identifiable(similarities: Similarities, kappa: float | None, imputes: bool) -> Free:
    """Decide which figures the photos determine.

    A factor on one kind of cells is determined only by photos from cells of that kind and from others: with photos of the
    others alone it would shrink to nothing.
    """
    enough = similarities.photos >= MIN_PHOTOS
    cells, photos = similarities.cells_of, similarities.photos_of

    def determined(kind: str) -> bool:
        others = sum(count for name, count in photos.items() if name != kind)
        return cells[kind] > 0 and photos[kind] >= MIN_PHOTOS and others >= MIN_PHOTOS

    return Free(
        kappa=kappa is None and photos["both"] >= MIN_PHOTOS,
        aerial_only=determined("aerial_only"),
        # With no cell of both terms one of the factors is the unit of all scores; it is the aerial one.
        prototype_only=determined("prototype_only") and (cells["both"] > 0 or cells["aerial_only"] > 0),
        temperature=enough,
        imputed=determined("aerial_only") and imputes,
    )


def _fallbacks(similarities: Similarities, free: Free, kappa: float | None, offered: int) -> list[str]:
    cells, photos = similarities.cells_of, similarities.photos_of
    lines = []
    if offered > similarities.photos_near:
        lines.append(f"{offered - similarities.photos_near} of {offered} validation photos lie outside the region")
    if not free.temperature:
        lines.append(
            f"{similarities.photos} validation photos are too few (at least {MIN_PHOTOS}): nothing is fitted, "
            "probabilities are rough and in_region stays unknown"
        )
        return lines
    if cells["both"] and kappa is None and not free.kappa:
        lines.append("no validation photos in cells with both terms: kappa is 1")
    for kind, term in (("aerial_only", "imagery"), ("prototype_only", "a prototype")):
        if cells[kind] and cells["both"] and not getattr(free, kind):
            lines.append(
                f"{photos[kind]} validation photos in the {cells[kind]} cells with {term} only: their factor is the "
                "mean length of the codes with both terms"
            )
    return lines


def _summary(calibration: Calibration, report: dict[str, Any]) -> str:
    c, photos = calibration, report["photos"]
    lines = [
        f"calibration: kappa {c.kappa:.3g}, aerial-only weight {c.aerial_only:.3g}, imputed-prototype weight {c.imputed:.3g}, "
        f"prototype-only weight {c.prototype_only:.3g}, temperature {c.temperature:.3g} ({c.photos} photos)"
    ]
    if photos["used"]:
        lines.append(
            f"recall@1 within {report['radius_m']:.0f} m of {photos['with_prototype']} validation photos with a prototype "
            f"/ {photos['without_prototype']} without:"
        )
        for name, recall in report["recall"].items():
            groups = (recall["with_prototype"], recall["without_prototype"])
            shown = ["-" if share is None else f"{share:.1%}" for share in groups]
            lines.append(f"  {name:<12}{shown[0]:>7} / {shown[1]}")
    return "\n".join(lines)
