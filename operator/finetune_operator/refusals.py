"""Creations that the API server refused, until they succeed: what a user must read in the status.

A quota that is used up, a Pod Security level, a webhook's no: each comes as a 4xx answer to one creation. It is kept
per child with the API server's own words, so that the decision can show it and try again later.
"""

from finetune_operator.model import RefusedWrite
from finetune_operator.workqueue import Key


class RefusalBook:
    """The newest refusal of each child of each job."""

    def __init__(self) -> None:
        self._refused: dict[Key, tuple[str, dict[str, RefusedWrite]]] = {}

    def note(self, key: Key, *, uid: str, refused: RefusedWrite) -> bool:
        """Keep the refusal; return whether it says something new."""
        known_uid, children = self._refused.get(key, ("", {}))
        if known_uid != uid:
            children = {}
        is_new = children.get(refused.name) != refused
        self._refused[key] = (uid, {**children, refused.name: refused})
        return is_new

    def clear(self, key: Key, *, name: str) -> None:
        """Forget the child's refusal: it was created."""
        uid, children = self._refused.get(key, ("", {}))
        rest = {child: refused for child, refused in children.items() if child != name}
        if rest:
            self._refused[key] = (uid, rest)
        else:
            self._refused.pop(key, None)

    def of(self, key: Key, *, uid: str) -> tuple[RefusedWrite, ...]:
        """Return the refusals of the job with that uid."""
        known_uid, children = self._refused.get(key, ("", {}))
        return tuple(children.values()) if known_uid == uid else ()

    def forget(self, key: Key) -> None:
        """Drop everything about a job that is gone."""
        self._refused.pop(key, None)
