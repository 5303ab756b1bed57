"""Keys that were renamed: refused in what a user writes, translated in what was saved."""

from collections.abc import Mapping
from typing import Any

from cellcode.config.shipped import merged

RENAMED = {
    "training.accumulation": "training.gradient_accumulation",
    "training.gradient_norm": "training.max_grad_norm",
    "training.ema": "training.ema_decay",
    "training.tempering": "training.sampling_exponent",
    "training.alike_places": "training.hard_group_size",
    "training.device": "machine.device",
    "training.precision": "machine.precision",
    "stream.threads": "machine.threads",
}


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of saved values under today's keys."""
    values = merged({}, values)
    for old, new in RENAMED.items():
        (block, key), (new_block, new_key) = old.split("."), new.split(".")
        if isinstance(values.get(block), dict) and key in values[block]:
            values.setdefault(new_block, {})[new_key] = values[block].pop(key)
    return values
