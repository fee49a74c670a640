"""Base of every record: camelCase on the wire, snake_case in Python, unknown keys refused, values frozen."""

from datetime import datetime
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

LARGEST_INTEGER = 2**63 - 1
LAST_YEAR = 2999
"""Room enough to add any duration to a time."""


class Rule(NamedTuple):
    """A CEL rule over one schema node, with the sentence that a user reads when it refuses an object."""

    cel: str
    message: str


class Record(BaseModel):
    """An immutable record that reads and writes camelCase JSON and refuses unknown keys."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_what_can_be_stored(self) -> Self:
        """Refuse what Python can hold and a status cannot: one such value, and it could never be written again."""
        for name, value in self.__dict__.items():
            if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
                raise ValueError(f"{to_camel(name)} is too large: integers have 64 bits")
            if isinstance(value, datetime) and (value.tzinfo is None or not 1970 <= value.year <= LAST_YEAR):
                raise ValueError(f"{to_camel(name)} must have a time zone and lie between 1970 and {LAST_YEAR}")
        return self

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object: camelCase keys, fields that are None left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
