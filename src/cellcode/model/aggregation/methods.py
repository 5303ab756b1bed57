"""Means of the map, the map itself, and aggregation by optimal transport."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellcode.config import AggregationConfig
from cellcode.model.aggregation import Aggregation
from cellcode.model.backbones import Features

FLATTEN_GRID = 4  # rows and columns that "flatten" pools any map to


class Mean(Aggregation):
    """The mean of the map."""

    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()
        self.out_dim = channels

    def forward(self, features: Features) -> Tensor:
        """Return (B, C)."""
        return features.map.float().mean(dim=(2, 3))


class GeM(Aggregation):
    """Generalised mean with a learned power (Radenovic et al. 2018); p = 1 is the mean of the positive part."""

    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()
        self.out_dim = channels
        self.p = nn.Parameter(torch.tensor(config.gem_p))

    def forward(self, features: Features) -> Tensor:
        """Return (B, C)."""
        return features.map.float().clamp(min=1e-6).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


class Flatten(Aggregation):
    """The map itself on a fixed grid: keeps where things are in the picture, which matters for small views."""

    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()
        self.out_dim = channels * FLATTEN_GRID**2

    def forward(self, features: Features) -> Tensor:
        """Return (B, C * 16)."""
        return F.adaptive_avg_pool2d(features.map.float(), FLATTEN_GRID).flatten(1)


class OptimalTransport(Aggregation):
    """SALAD: local features are assigned to clusters by optimal transport, with a dustbin for the useless ones.

    Izquierdo and Civera, "Optimal Transport Aggregation for Visual Place Recognition", CVPR 2024, sections 3.2 and 3.3:
    scores from a two-layer perceptron, a learned constant score for the dustbin, Sinkhorn iterations in log space, the
    projected features summed by their assignment, each cluster at unit length; a global token beside them. Written from
    the paper. Where there is no class token the global one is made from the mean of the map (our choice).
    """

    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()
        self.steps, self.clusters = config.sinkhorn_steps, config.clusters
        self.out_dim = config.clusters * config.cluster_dim + config.token_dim
        self.score = _perceptron(channels, config.clusters)
        self.project = _perceptron(channels, config.cluster_dim)
        # As in the paper. With marginals that are fixed the first scaling of the rows cancels a constant on one of them,
        # so its value does not matter; its row does.
        self.dustbin = nn.Parameter(torch.tensor(1.0))
        self.token = _perceptron(channels, config.token_dim) if config.token_dim else None

    def forward(self, features: Features) -> Tensor:
        """Return (B, clusters * cluster_dim + token_dim) at unit length."""
        local = features.map.flatten(2).transpose(1, 2)  # B x n x C
        shares = self.assign(self.score(local).float().transpose(1, 2))  # B x m x n
        clusters = shares @ self.project(local).float()  # B x m x l
        parts = [F.normalize(clusters, dim=2).flatten(1)]
        if self.token is not None:
            token = features.token if features.token is not None else features.map.float().mean(dim=(2, 3))
            parts.append(F.normalize(self.token(token).float(), dim=1))
        return F.normalize(torch.cat(parts, dim=1), dim=1)

    def assign(self, scores: Tensor) -> Tensor:
        """Return the transport plan without its dustbin, (B, m, n), from scores of m clusters for n features.

        Every feature sends mass 1; every cluster receives 1 and the dustbin the rest, n - m (where features are fewer
        than clusters, the clusters share them evenly with it).
        """
        batch, m, n = scores.shape
        with torch.autocast(scores.device.type, enabled=False):
            scores = torch.cat([scores, self.dustbin.expand(batch, 1, n)], dim=1)
            each, rest = (1.0, n - m) if n > m else (n / (m + 1), n / (m + 1))
            log_receive = scores.new_full((m + 1,), math.log(each))
            log_receive[-1] = math.log(rest)
            return log_sinkhorn(scores, log_receive, scores.new_zeros(n), self.steps).exp()[:, :-1]


def log_sinkhorn(scores: Tensor, log_rows: Tensor, log_columns: Tensor, steps: int) -> Tensor:
    """Scale exp(scores) to given row and column sums by alternating steps (Sinkhorn, Cuturi 2013), all in logarithms.

    Scores are (B, m, n), the sums (m,) and (n,), of equal total mass; the columns are exact after each step.
    """
    u, v = torch.zeros_like(scores[:, :, 0]), torch.zeros_like(scores[:, 0])
    for _ in range(steps):
        u = log_rows - torch.logsumexp(scores + v[:, None, :], dim=2)
        v = log_columns - torch.logsumexp(scores + u[:, :, None], dim=1)
    return scores + u[:, :, None] + v[:, None, :]


def _perceptron(channels: int, out: int, hidden: int = 256) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, out))
