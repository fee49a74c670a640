"""Base of every record: camelCase on the wire, snake_case in Python, unknown keys refused, values frozen."""

from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


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

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object: camelCase keys, fields that are None left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
