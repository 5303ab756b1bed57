"""Aggregation: from a map of local features to one vector. `AGGREGATIONS` has them by name."""

from cellcode.model.aggregation.protocol import AGGREGATIONS, Aggregation, make_aggregation

__all__ = ["AGGREGATIONS", "Aggregation", "make_aggregation"]
