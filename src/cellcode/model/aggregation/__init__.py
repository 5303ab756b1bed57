"""Aggregation: from a map of local features to one vector. `AGGREGATIONS` has them by name."""

from torch import Tensor, nn

from cellcode.config import AggregationConfig
from cellcode.errors import PluginError
from cellcode.model.backbones import Features
from cellcode.plugins import Registry


class Aggregation(nn.Module):
    """Turns `Features` into one vector per image.

    A factory is called with the number of channels of the map, the block `aggregation` of the configuration, and the options
    as keyword arguments.
    """

    out_dim: int = 0  # width of the vectors
    name: str = ""  # for messages

    def forward(self, features: Features) -> Tensor:
        """Return one vector per image, (B, out_dim) float32."""
        raise NotImplementedError


AGGREGATIONS: Registry[Aggregation] = Registry(
    "aggregation",
    "cellcode.aggregations",
    Aggregation,
    {
        "mean": "cellcode.model.aggregation.methods:Mean",
        "gem": "cellcode.model.aggregation.methods:GeM",
        "flatten": "cellcode.model.aggregation.methods:Flatten",
        "optimal_transport": "cellcode.model.aggregation.methods:OptimalTransport",
    },
)


def make_aggregation(config: AggregationConfig, channels: int) -> Aggregation:
    """Return the aggregation of a configuration for maps of `channels`.

    Raises:
        UsageError: the name is unknown.
        PluginError: a plug-in cannot be imported or built, or gives no width.
    """
    aggregation = AGGREGATIONS.make(config.name, channels, config, **config.options)
    aggregation.name = config.name
    if not isinstance(width := aggregation.out_dim, int) or width < 1:
        raise PluginError(f"aggregation {config.name}: expected the width of its vectors in out_dim, and it is {width}")
    return aggregation
