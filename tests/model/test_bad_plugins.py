"""Backbones, aggregations and losses that break their protocol: one sentence names them and what was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cellcode.config import AggregationConfig, EncoderConfig, LossConfig
from cellcode.errors import PluginError
from cellcode.model.aggregation import Aggregation
from cellcode.model.backbones import Backbone, Features
from cellcode.model.encoder import Encoder
from cellcode.model.losses import PairLoss, make_loss

HERE = __name__


class Stem(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 8, 4, 4)


class Narrow(Backbone):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__([Stem()], 16)


class Empty(Backbone):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__([], 16)


class Functions(Backbone):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__([lambda x: x], 16)  # type: ignore[list-item]


class Two(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x, x


class Pairs(Backbone):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__([Stem(), Two(), nn.Identity()], 8)


class Bare(Backbone):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__([Stem()], 8)

    def features(self, x: Tensor) -> Any:
        return x


class Tokens(Bare):
    def features(self, x: Tensor) -> Features:
        return Features(x, x[:, :3, 0, 0])


class Flat(Bare):
    def features(self, x: Tensor) -> Features:
        return Features(x.flatten(2))


def images(config: EncoderConfig) -> Any:
    return nn.Identity()


def breaks(config: EncoderConfig) -> Backbone:
    raise ValueError("no such width\nand more")


class Wide(Aggregation):
    """Gives one number more in every call."""

    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()
        self.out_dim = self.width = channels

    def forward(self, features: Features) -> Tensor:
        vectors = features.map.mean(dim=(2, 3))
        self.width += 1
        return torch.cat([vectors, vectors], dim=1)[:, : self.width - 1]


class Silent(Aggregation):
    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()


class Listed(Wide):
    def forward(self, features: Features) -> Any:
        return [features.map]


def _embed(encoder: Encoder, calls: int = 1) -> None:
    for _ in range(calls):
        encoder(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Narrow", r"expected a map of shape \(2, 16, any, any\), and it returned shape \(2, 8, 4, 4\)"),
        ("Flat", r"map of shape \(2, 8, any, any\), and it returned shape \(2, 8, 16\)"),
        ("Bare", r"expected Features, and it returned a Tensor"),
        ("Tokens", r"expected a class token of shape \(2, 8\), and it returned shape \(2, 3\)"),
        ("Pairs", r"a block \(Two\) returned a tuple, not one tensor"),
        ("Empty", "expected at least one block"),
        ("Functions", r"building it raised TypeError"),
        ("images", r"expected a cellcode\.model\.backbones\.Backbone, and it returned a Identity"),
        ("breaks", r"building it raised ValueError \(no such width\)"),
        ("Missing", "has no Missing"),
        ("Stem", r"expected a subclass of cellcode\.model\.backbones\.Backbone .*, not the class Stem"),
    ],
)
def test_a_backbone_that_breaks_its_protocol_is_named(name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message) as raised:
        _embed(Encoder(EncoderConfig(backbone=f"{HERE}:{name}"), 4))
    assert str(raised.value).startswith(f"backbone {HERE}:{name}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Wide", r"expected vectors of shape \(2, 160\), and it returned shape \(2, 161\)"),
        ("Listed", r"expected vectors of shape \(2, 160\), and it returned a list"),
        ("Silent", "expected the width of its vectors in out_dim, and it is 0"),
    ],
)
def test_an_aggregation_that_breaks_its_protocol_is_named(name: str, message: str) -> None:
    """Also where only the second call differs."""
    with pytest.raises(PluginError, match=message) as raised:
        _embed(Encoder(EncoderConfig(aggregation=AggregationConfig(name=f"{HERE}:{name}")), 4), calls=2)
    assert str(raised.value).startswith(f"aggregation {HERE}:{name}: ")


class Mean(PairLoss):
    def of_pairs(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> Any:
        return similarity.mean()


class Number(Mean):
    def of_pairs(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> Any:
        return float(similarity.mean())


class Raises(Mean):
    def of_pairs(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> Any:
        return similarity @ similarity


class Infinite(Mean):
    def of_pairs(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> Any:
        return similarity[:, 0] / 0


class Abstract(PairLoss):
    pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mean", r"expected one value per row of shape \(2\), and it returned shape \(\)"),
        ("Number", r"expected one value per row of shape \(2\), and it returned a float"),
        ("Raises", r"two rows of similarities raised RuntimeError"),
        ("Infinite", r"expected finite values, and of two rows it returned \[inf, inf\]"),
        ("Abstract", r"building it raised TypeError"),
    ],
)
def test_a_loss_that_breaks_its_protocol_is_named(name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message) as raised:
        make_loss(LossConfig(kind=f"{HERE}:{name}"))
    assert str(raised.value).startswith(f"loss {HERE}:{name}: ")
