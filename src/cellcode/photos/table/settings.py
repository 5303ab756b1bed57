"""The base of what a user sets: immutable, and a wrong value is one sentence that names it."""

import difflib
from typing import Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator

from cellcode.config.config import Frozen
from cellcode.errors import UsageError


class Settings(Frozen):
    """Settings that raise `UsageError`, with a prefix, where a key is unknown or a value is out of its range."""

    prefix: ClassVar[str] = ""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_sentence(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
        name, message = ".".join(str(part) for part in first["loc"]), first["msg"]
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.0)
            raise UsageError(f"{cls.prefix}unknown option {name}; the nearest known one is {near[0]}")
        raise UsageError(f"{cls.prefix}{name or cls.__name__} is {first['input']!r}: {message[0].lower()}{message[1:]}")
