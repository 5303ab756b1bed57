"""The configuration: frozen models that are the only source of defaults, YAML files, and `--set a.b=c`.

Everything a paper fixes or leaves open is a field here, so that an experiment is a file and an ablation one override.
An unknown key is an error that names the nearest known one. The resolved configuration is saved in every run and database,
without the machine settings.
"""

from cellcode.config.config import (
    AggregationConfig,
    AugmentationConfig,
    BuildConfig,
    Config,
    EncoderConfig,
    EvaluationConfig,
    Frozen,
    LevelsConfig,
    LossConfig,
    MachineConfig,
    ModelConfig,
    PhotoConfig,
    PrototypesConfig,
    StreamConfig,
    TileConfig,
    TrainingConfig,
    ValidationConfig,
)
from cellcode.config.loading import (
    differences,
    dump,
    load,
    load_saved,
    overridden,
    parse,
    parse_saved,
    resolve,
    shipped,
)

__all__ = [
    "AggregationConfig", "AugmentationConfig", "BuildConfig", "Config", "EncoderConfig", "EvaluationConfig", "Frozen",
    "LevelsConfig", "LossConfig", "MachineConfig", "ModelConfig", "PhotoConfig", "PrototypesConfig", "StreamConfig",
    "TileConfig", "TrainingConfig", "ValidationConfig", "differences", "dump", "load", "load_saved", "overridden",
    "parse", "parse_saved", "resolve", "shipped",
]  # fmt: skip
