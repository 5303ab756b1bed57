"""What the page must show, each with its figures and whether they bear it out."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from experiments.seeds import t_interval_95

Values = Mapping[str, Any]
Judge = Callable[[Values], tuple[bool, str]]
ONE, RADIUS = "1", "200"
PROTOTYPES = "prototypes, a term of the hybrid", "prototypes trained alone"
AERIAL = "aerial, a term of the hybrid", "aerial trained alone"


@dataclass(frozen=True)
class Claim:
    """A statement about the results.

    Attributes:
        text: what is claimed.
        holds: None where its stages are missing.
        figures: what was measured, as a sentence.
        why: what we think is behind it where it does not hold; empty where it does.
    """

    text: str
    holds: bool | None
    figures: str
    why: str = ""


def check(values: Values) -> list[dict[str, Any]]:
    """Return every claim, in order; one whose figures are missing holds neither way."""
    return [_judged(*claim, values) for claim in _CLAIMS]


def paper(values: Values) -> list[dict[str, Any]]:
    """Return what the paper reports, beside what this region shows."""
    return [_judged(*claim, values) for claim in _PAPER]


def _judged(text: str, judge: Judge, why: str, values: Values) -> dict[str, Any]:
    try:
        holds, figures = judge(values)
    except (KeyError, TypeError, IndexError, StopIteration, ValueError):
        return asdict(Claim(text, None, "not measured: a stage is missing"))
    return asdict(Claim(text, bool(holds), figures, "" if holds else why))


def _report(values: Values, area: str = "same") -> Any:
    return values["parts"][area]


def _recall(values: Values, system: str, area: str = "same") -> float:
    return float(_report(values, area)["systems"][system]["recall"][ONE][RADIUS])


def _measured(values: Values, part: str, radius: str = RADIUS, group: str = "all", area: str = "same") -> Any:
    """Mean, interval over photos and seeds, and the seeds' own values; see `seeds.summary`."""
    return values["seeds"][area]["recall"][part][radius][group]


def _better(values: Values, parts: tuple[str, ...], radius: str = RADIUS, group: str = "all") -> tuple[str, Any]:
    """The part, of the hybrid's training or trained alone, that finds more."""
    known = {
        part: _measured(values, part, radius, group) for part in parts if part in values["seeds"]["same"]["recall"]
    }
    best = max(known, key=lambda part: float(known[part]["mean"]))
    return best, known[best]


def _with_interval(found: Any) -> str:
    low, high = found["interval_95"]
    return f"{_p(found['mean'])} % ({_p(low)} to {_p(high)}; seeds {', '.join(_p(each) for each in found['by_seed'])})"


def _above(values: Values, part: str, radius: str = RADIUS, group: str = "all") -> tuple[float, str]:
    """By how much the hybrid is above a part on the same photos."""
    found = values["seeds"]["same"]["hybrid_above"][part][radius][group]
    low, high = found["interval_95"]
    return float(found["mean"]), f"{_p(found['mean'])} points ({_p(low)} to {_p(high)})"


def _finds(values: Values) -> tuple[bool, str]:
    found = _measured(values, "hybrid")
    return found["mean"] >= 0.45, _with_interval(found)


def _sum_beats_its_parts(radius: str) -> Judge:
    def judge(values: Values) -> tuple[bool, str]:
        best, part = _better(values, (*PROTOTYPES, *AERIAL), radius)
        hybrid, (gain, gained) = _measured(values, "hybrid", radius), _above(values, best, radius)
        said = f"{_with_interval(hybrid)} against {_with_interval(part)} of {best}: {gained}"
        return gain >= 0.03 and hybrid["interval_95"][0] > part["interval_95"][1], said

    return judge


def _without_photos(values: Values) -> tuple[bool, str]:
    hybrid = _measured(values, "hybrid", group="without_photos")
    said, holds = [_with_interval(hybrid)], True
    for parts, least in ((PROTOTYPES, 2.0), (AERIAL, 0.95)):
        best, part = _better(values, parts, group="without_photos")
        ratio = hybrid["mean"] / max(part["mean"], 1e-9)
        holds &= ratio >= least
        said.append(f"{_with_interval(part)} of {best}: {ratio:.2f} times it")
    return holds, "; ".join(said)


def _sparse_cells(values: Values) -> tuple[bool, str]:
    """The sparsest quarter of the level-15 cells with training photos."""
    best, part = _better(values, PROTOTYPES, group="sparsest_quarter")
    hybrid, (gain, gained) = (
        _measured(values, "hybrid", group="sparsest_quarter"),
        _above(values, best, group="sparsest_quarter"),
    )
    most = values["seeds"]["sparsest_quarter"]
    return gain >= 0.08, (
        f"in cells with 1 to {most} photos {_with_interval(hybrid)} against {_with_interval(part)} of {best}: {gained}"
    )


def _cross_area(values: Values) -> tuple[bool, str]:
    same, cross = (_measured(values, AERIAL[0], area=area) for area in ("same", "cross"))
    ratio = cross["mean"] / max(same["mean"], 1e-9)
    said = f"{_with_interval(cross)} cross area against {_with_interval(same)} same area ({ratio:.2f} of it)"
    return ratio >= 0.5, said


def _smaller_than_retrieval(values: Values) -> tuple[bool, str]:
    systems = _report(values)["systems"]
    ratio = systems["image_retrieval"]["times_ours"]
    ours, theirs = _recall(values, "hybrid"), _recall(values, "image_retrieval")
    return (
        ratio >= 10 and ours >= theirs,
        f"{ratio:.1f} times our bytes; recall@1 within 200 m {_p(ours)} % against {_p(theirs)} %",
    )


def _honest(values: Values) -> tuple[bool, str]:
    ece, inside = values["seeds"]["ece"], values["seeds"]["same"]["inside"]
    radii = [abs(inside[share]["mean"] - expected) <= 0.03 for share, expected in (("50", 0.5), ("90", 0.9))]
    said = f"ECE {_over_seeds(ece)}; radii hold {_with_interval(inside['50'])} and {_with_interval(inside['90'])}"
    return mean(ece) <= 0.03 and all(radii), said


def _out_of_region(values: Values) -> tuple[bool, str]:
    found = values["seeds"]["auroc"]
    said = "; ".join(f"{look} {_over_seeds(by_seed)}" for look, by_seed in found.items())
    return min(mean(by_seed) for by_seed in found.values()) >= 0.85, f"AUROC {said}"


def _over_seeds(by_seed: list[float]) -> str:
    low, high = t_interval_95(by_seed)
    interval = f"{low:.3f} to {high:.3f}; " if len(by_seed) > 1 else ""
    return f"{mean(by_seed):.3f} ({interval}seeds {', '.join(f'{each:.3f}' for each in by_seed)})"


def _smaller(values: Values) -> tuple[bool, str]:
    ratio = _report(values)["systems"]["image_retrieval"]["times_ours"]
    return 30 <= ratio <= 60, (
        f"{ratio:.1f} times: the ratio is that of training photos to cells, which here is {ratio:.1f}, by construction"
    )


def _helps_where_sparse(values: Values) -> tuple[bool, str]:
    bins = values["slices"]["spatial_density"]
    gain = {
        name: each["systems"]["hybrid"]["recall"][ONE] - each["systems"]["prototypes"]["recall"][ONE]
        for name, each in bins.items()
    }
    first, *_, last = gain
    text = ", ".join(f"{_p(points)} points with {name}" for name, points in gain.items())
    return gain[first] > gain[last], f"the hybrid gains over prototypes alone {text}"


def _rural_failures(values: Values) -> tuple[bool, str]:
    bins = {name: each["systems"]["hybrid"]["recall"][ONE] for name, each in values["slices"]["land_use"].items()}
    text = ", ".join(f"{name} {_p(recall)} %" for name, recall in bins.items())
    rural = [bins[name] for name in ("farmland", "forest") if name in bins]
    return max(rural) < bins["town"], f"recall@1 within 200 m: {text}"


def _orthogonal_yet_smooth(values: Values) -> tuple[bool, str]:
    found = _report(values)["prototype_similarity"]
    near, far, spread = found["touching"], found["far"], found["far_deviation"]
    text = f"mean cosine {near:.2f} of cells that touch, {far:.2f} ± {spread:.2f} beyond 2 km"
    return abs(found["far"]) < 0.1 and found["touching"] > 0.2, text


def _p(share: float) -> str:
    return f"{100 * share:.1f}"


_CLAIMS: tuple[tuple[str, Judge, str], ...] = (
    ("The hybrid's recall@1 within 200 m is at least 45 %", _finds, ""),
    *(
        (
            f"The hybrid's recall@1 within {radius} m is at least 3 points above the better part, of its own training or "
            "trained alone, intervals apart",
            _sum_beats_its_parts(radius),
            "",
        )
        for radius in (RADIUS, "100")
    ),
    (
        "In cells without training photos the hybrid is at least twice prototypes only and at least 0.95 of aerial only",
        _without_photos,
        "",
    ),
    ("In the sparsest quarter of cells the hybrid is at least 8 points above prototypes only", _sparse_cells, ""),
    ("Cross area, aerial terms alone give at least half of their own same-area recall", _cross_area, ""),
    (
        "Image retrieval's database is at least 10 times larger at equal width, and our recall not lower",
        _smaller_than_retrieval,
        "",
    ),
    ("The confidence is true: ECE at most 0.03, radii within 3 points of 50 and 90 %", _honest, ""),
    (
        "Out-of-region photos are separated from the region's with an AUROC of at least 0.85, for either look",
        _out_of_region,
        "",
    ),
)
_PAPER: tuple[tuple[str, Judge, str], ...] = (
    ("The database is 30 to 60 times smaller than that of image retrieval", _smaller, ""),
    ("Aerial embeddings help most where ground images are sparse", _helps_where_sparse, ""),
    ("Failures are mostly rural", _rural_failures, ""),
    ("Prototypes are almost orthogonal, yet locally smooth", _orthogonal_yet_smooth, ""),
)
