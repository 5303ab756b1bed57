"""A client of the service (`cellcode serve`), on the standard library alone: it works without torch or numpy.

    from cellcode.client import Client

    answer = Client("http://127.0.0.1:8000").locate("photo.jpg")
    print(answer.lat, answer.lon, answer.radius_90_m, answer.in_region)

docs/serving.md says what the values mean. What the service adds in later versions is passed over.
"""

from cellcode.client.answers import (
    Answer,
    Candidate,
    Cell,
    Claim,
    Failure,
    Heat,
    Metadata,
    Searched,
    Served,
    Verification,
)
from cellcode.client.client import Client
from cellcode.client.transport import ServiceError

__all__ = [
    "Answer", "Candidate", "Cell", "Claim", "Client", "Failure", "Heat", "Metadata", "Searched", "Served", "ServiceError",
    "Verification",
]  # fmt: skip
