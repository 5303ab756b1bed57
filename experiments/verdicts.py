"""A sentence for each recurring candidate, out of the ablations' numbers."""

from collections.abc import Mapping, Sequence
from typing import Any


def all_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each question that rows of the ablations' table answer."""
    answers: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["question"] and "same_difference" in row:
            answers.setdefault(row["question"], []).append(row)
    return [
        f"{question[0].upper()}{question[1:]}: {'; '.join(_measured(row) for row in found)}."
        for question, found in answers.items()
    ]


def _measured(row: Mapping[str, Any]) -> str:
    low, high = (f"{100 * end:+.1f}" for end in row["same_interval_95"])
    gain, cross = 100 * row["same_difference"], 100 * row["cross_difference"]
    return (
        f"{row['name']} changes recall by {gain:+.1f} points ({low} to {high}), in the held-out square by {cross:+.1f}, for "
        f"{row['times_cpu']:.2f} times the CPU time: {verdict(row)}"
    )


def verdict(row: Mapping[str, Any]) -> str:
    """Say whether a change is better than the base, worse, or neither by seeds or by photos."""
    low, high = row["same_interval_95"]
    if row["within_noise"]:
        return f"within the noise of seeds ({100 * row['seed_range']:.1f} points), no reason to change the default"
    if low > 0:
        return "better beyond photos and seeds, a candidate for the default"
    return "worse beyond photos and seeds, the default stays" if high < 0 else "its interval over photos includes none"
