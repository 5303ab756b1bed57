"""A generalised mean with a fixed power. In a configuration: `aggregation: {name: gem_power:GeMPower, options: {p: 4}}`."""

from pydantic import BaseModel, Field
from torch import Tensor

from cellcode.config import AggregationConfig
from cellcode.model.aggregation import Aggregation
from cellcode.model.backbones import Features
from cellcode.plugins import read_options


class Options(BaseModel):
    p: float = Field(5.0, gt=0)


class GeMPower(Aggregation):
    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()
        self.p = read_options(f"aggregation {config.name}", config.options, Options).p
        self.out_dim = channels

    def forward(self, features: Features) -> Tensor:
        x = features.map.float().clamp(min=1e-6)  # B x C x h x w
        return x.pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)
