"""Search of cell codes: the best cells for a photo, their probabilities, an answer. Knows no training and no HTTP."""

from cellcode.client.answers import Answer, Candidate, Failure, Searched
from cellcode.search import together
from cellcode.search.locator import Locator, locate
from cellcode.search.searcher import CodeSearcher, DatabaseSearcher, Hits, Searcher
from cellcode.search.sharded import ShardedSearcher

__all__ = [
    "Answer", "Candidate", "CodeSearcher", "DatabaseSearcher", "Failure", "Hits", "Locator", "Searched", "Searcher",
    "ShardedSearcher", "locate", "together",
]  # fmt: skip
