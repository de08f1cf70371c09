"""The base of all that is written as JSON and read again: documents, settings, job files, results."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Wire(BaseModel):
    """snake_case here, camelCase on the wire; immutable. Fields that are not known are ignored, unless forbidden."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        # A short program builds only the models that it uses.
        defer_build=True,
    )
