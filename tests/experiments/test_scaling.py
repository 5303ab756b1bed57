"""The fit finds curves that are known, its intervals hold the truth, and the sentences say what the numbers do."""

from typing import Any

import numpy as np
import pytest
from experiments import scaling, verdicts
from experiments.plan import BASE, FULL


@pytest.mark.parametrize(("a", "b", "c"), [(0.6, 0.4, 0.5), (1.0, 0.8, 0.2), (0.5, 0.45, 1.0)])
def test_a_power_law_is_found_again(a: float, b: float, c: float) -> None:
    x = np.array([1.0, 2.0, 4.0, 8.0])
    found = scaling.fit(x, (a - b * x**-c)[None])
    np.testing.assert_allclose(np.concatenate(found), (a, b, c), atol=1e-6)


def test_recall_that_falls_or_would_pass_one_is_held() -> None:
    x = np.array([1.0, 2.0, 4.0])
    (a,), (b,), _ = scaling.fit(x, np.array([[0.5, 0.4, 0.3]]))
    assert (a, b) == (pytest.approx(0.4), 0.0)
    (a,), (b,), (c,) = scaling.fit(x, np.array([[0.3, 0.6, 0.9]]))
    assert a == 1.0
    assert 0 < a - b * 16**-c <= 1


def test_the_interval_of_an_extrapolation_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, x, held = np.random.default_rng(1), np.array([1.0, 2.0, 4.0, 8.0]), 0
    chance = 0.6 - 0.4 * x**-0.5
    for _ in range(40):
        shifted = chance + rng.normal(0, 0.01, 4)
        hits = (rng.random((4, 1500)) < shifted[:, None]).astype(float)
        rows = [{"value": value, "cpu_seconds": 10 * value} for value in x]
        made = scaling._extrapolated(rows, hits, np.arange(1500), 0.01)
        low, high = made["extrapolated"][1]["interval_95"]
        held += low <= 0.6 - 0.4 * 32**-0.5 <= high
        assert made["extrapolated"][1]["cpu_seconds"] == pytest.approx(320)
    assert held >= 33


def test_points_are_multiples_of_the_configuration_and_the_base_is_shared() -> None:
    points = scaling.points(FULL)
    assert BASE not in points
    assert scaling.point(FULL, "epochs", 1.0) is BASE
    double = scaling.point(FULL, "epochs", 2.0)
    assert double.overrides == (f"training.epochs={2 * FULL.ablation_epochs}",)
    assert double.slug == f"scale-epochs-{2 * FULL.ablation_epochs}"
    assert scaling.point(FULL, "photos", 0.5).photos == FULL.ablation_photos // 2
    assert "loss.kind=multi_similarity" in scaling.point(FULL, "epochs-multi-similarity", 1.0).overrides


def _curve(name: str, recalls: list[float]) -> dict[str, Any]:
    points = [
        {"value": float(2**number), "recall": {"hybrid": {"200": {"all": recall}}}}
        for number, recall in enumerate(recalls)
    ]
    return {"name": name, "points": points}


def test_it_is_said_from_where_on_a_loss_has_caught_up() -> None:
    softmax = _curve("epochs", [0.10, 0.2, 0.3, 0.4])
    late = {"axes": [softmax, _curve("epochs-multi-similarity", [0.10, 0.1, 0.29, 0.4])], "seed_deviation": 0.01}
    assert "from 4 epochs on it is level or ahead" in str(scaling.catches_up(late))
    never = {"axes": [softmax, _curve("epochs-multi-similarity", [0.10, 0.1, 0.2, 0.3])], "seed_deviation": 0.01}
    assert "+10.0 (epochs: 8); within 2.0 points it has not caught up with 8 epochs" in str(scaling.catches_up(never))
    assert scaling.catches_up(None) is None


@pytest.mark.parametrize(
    ("difference", "interval", "said"),
    [
        (0.01, [0.002, 0.02], "within the noise of seeds (1.5 points)"),
        (0.03, [0.01, 0.05], "better beyond photos and seeds"),
        (-0.03, [-0.05, -0.01], "worse beyond photos and seeds"),
        (0.03, [-0.01, 0.05], "its interval over photos includes none"),
    ],
)
def test_a_verdict_is_by_photos_and_seeds(difference: float, interval: list[float], said: str) -> None:
    row = {
        "question": "hard batches", "name": "groups of 4", "same_difference": difference, "same_interval_95": interval,
        "cross_difference": 0.0, "times_cpu": 1.5, "seed_range": 0.015, "within_noise": abs(difference) <= 0.015,
    }  # fmt: skip
    (sentence,) = verdicts.all_of([row, {**row, "question": ""}])
    assert sentence.startswith(f"Hard batches: groups of 4 changes recall by {100 * difference:+.1f} points")
    assert said in sentence
