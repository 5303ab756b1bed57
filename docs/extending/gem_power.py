"""A generalised mean with a fixed power. In a configuration: `aggregation: {name: gem_power:GeMPower, options: {p: 4}}`."""

from torch import Tensor

from cellcode.config import AggregationConfig
from cellcode.model.aggregation import Aggregation
from cellcode.model.backbones import Features


class GeMPower(Aggregation):
    def __init__(self, channels: int, config: AggregationConfig, p: float = 5.0) -> None:
        super().__init__()
        self.p, self.out_dim = p, channels
        if p <= 0:
            raise ValueError(f"p must be positive, not {p}")

    def forward(self, features: Features) -> Tensor:
        x = features.map.float().clamp(min=1e-6)  # B x C x h x w
        return x.pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)
