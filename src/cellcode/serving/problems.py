"""One format of errors: a stable code, a sentence, and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from cellcode.errors import CellcodeError, EmptyRegionError, UsageError
from cellcode.photos import PhotoError
from cellcode.photos.reading.image import PhotoTooLargeError

# HTTP status and what to do, by code. Codes are stable: programs depend on them.
CODES: Mapping[str, tuple[int, str]] = {
    "bad_request": (400, "correct the request; /openapi.json describes it"),
    "region_invalid": (400, "give west,south,east,north, cap:LAT,LON,RADIUS_M or a GeoJSON polygon"),
    "unauthorized": (401, "send the header Authorization: Bearer KEY with a key of this service"),
    "not_found": (404, "check the address"),
    "method_not_allowed": (405, "use a method that /openapi.json names"),
    "too_slow": (408, "send the request, or read the answer, without such pauses"),
    "photo_too_large": (413, "send a smaller photo"),
    "too_many_photos": (413, "send fewer photos, or use /v1/batch"),
    "address_too_long": (414, "send fields in the body"),
    "photo_unreadable": (422, "send a JPEG, PNG or WebP of a photo"),
    "region_empty": (422, "choose a region that holds cells of the database; /v1/database has its bounds"),
    "rate_limited": (429, "wait as long as Retry-After says"),
    "headers_too_large": (431, "send fewer or shorter headers"),
    "internal": (500, "report it with the request id"),
    "overloaded": (503, "try again after as long as Retry-After says"),
    "timeout": (504, "send fewer or smaller photos, or try again later"),
}


class ErrorFacts(BaseModel):
    """What went wrong."""

    code: str = Field(description="stable: " + ", ".join(CODES))
    message: str = Field(description="one sentence")
    action: str = Field(description="what to do")


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorFacts


@dataclass
class Problem(Exception):
    """An error that is reported to the user of the service; `code` is one of `CODES`, `message` one sentence."""

    code: str
    message: str
    retry_after_s: int | None = None

    @property
    def facts(self) -> ErrorFacts:
        """What the body says."""
        return ErrorFacts(code=self.code, message=self.message, action=CODES[self.code][1])

    def response(self) -> JSONResponse:
        """Return the answer."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.code == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        body = ErrorBody(error=self.facts).model_dump()
        return JSONResponse(body, status_code=CODES[self.code][0], headers=headers)


def invalid(error: Any, whole: str = "") -> Problem:
    """Return the problem that an error of pydantic's list is; `whole` names what has no fields."""
    return Problem("bad_request", f"{'.'.join(map(str, error['loc'])) or whole}: {error['msg']}")


def problem_of(error: CellcodeError) -> Problem:
    """Return the problem that an error of the other packages is."""
    kinds = {
        PhotoTooLargeError: "photo_too_large",
        PhotoError: "photo_unreadable",
        UsageError: "bad_request",
        EmptyRegionError: "region_empty",
    }
    return Problem(next((code for kind, code in kinds.items() if isinstance(error, kind)), "internal"), str(error))
