"""Searches of single arms: the fields in which they differ from the experiment's."""

from __future__ import annotations

import msgspec

from oneticket.search import Mixed, Restored, Retraining, Search


class OtherSearch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of ``[search]`` that differ for one arm; None where a field does not differ."""

    rounds: int | None = None
    prune: float | None = None
    criterion: str | None = None
    allocation: str | None = None
    rewind: str | int | None = None
    method: Retraining | None = None
    optimizer_state: Restored | None = None
    norm_statistics: Restored | None = None
    rescale: str | None = None
    norms: Mixed | None = None

    def on(self, search: Search) -> Search:
        """``search`` with these fields in place of its own."""
        changed = {field: getattr(self, field) for field in self.__struct_fields__}
        return msgspec.structs.replace(search, **{key: value for key, value in changed.items() if value is not None})
