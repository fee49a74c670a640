"""Field types that Kubernetes has names for. A name is one name: no slash and so no other namespace fits into it."""

from typing import Annotated

from pydantic import Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
OptionalName = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)]
"""A name, or empty for none."""
Key = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
"""Key of a ConfigMap or Secret."""
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([munkMGTPE]|[KMGTPE]i)?$", max_length=32)]
Amount = Quantity | Annotated[int, Field(ge=0)]
"""A resource quantity: text like 500m or 3Gi, or a whole number."""
LabelKey = Annotated[str, Field(pattern=r"^([a-z0-9][-a-z0-9.]*/)?[a-zA-Z0-9][-._a-zA-Z0-9]*$", max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]
AnnotationValue = Annotated[str, Field(max_length=16384)]
FileMode = Annotated[int, Field(ge=0, le=0o777)]
"""Permissions of a file, as the decimal number that JSON has for them: 288 is 0440."""
