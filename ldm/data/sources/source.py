"""The protocol of picture sources, and parts of a source."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

NOTE = "note:reading"
"""Key of `metadata` that says what was odd about a caption or record, where something was."""


class Source(Protocol):
    """Encoded pictures by number, with what is known of them, in an order that stays while the files stay.

    Attributes:
        fingerprint: another one whenever the pictures or their order are others.
    """

    @property
    def fingerprint(self) -> str:
        """A hash of the pictures and their order."""
        ...

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """A name of picture `index` that does not depend on where the source lies nor on the other pictures."""
        ...

    def where(self, index: int) -> str:
        """The file or address of picture `index`, for people."""
        ...

    def where_metadata(self, index: int) -> str:
        """The file, with the line, or the address that `metadata` of picture `index` comes from, for people."""
        ...

    def metadata(self, index: int) -> dict[str, Any]:
        """The metadata of picture `index`: `captions`, a list, perhaps empty; maybe `label`, `weight`, `kind`, `NOTE`.

        Cheap: the picture is not read.
        """
        ...

    def picture(self, index: int) -> bytes:
        """Picture `index`, encoded.

        Raises:
            ValueError: it is not there; trying again does not help.
            OSError: it cannot be reached at present.
        """
        ...


class Part:
    """Some pictures of a source.

    Args:
        source: all pictures.
        ids: their numbers in the source, ascending.
    """

    def __init__(self, source: Source, ids: Sequence[int] | np.ndarray) -> None:
        self._source, self._ids = source, np.asarray(ids, dtype=np.int64)
        self.fingerprint = digest(source.fingerprint, self._ids.tobytes())

    def __len__(self) -> int:
        return len(self._ids)

    def key(self, index: int) -> str:
        """As the source's."""
        return self._source.key(int(self._ids[index]))

    def where(self, index: int) -> str:
        """As the source's."""
        return self._source.where(int(self._ids[index]))

    def where_metadata(self, index: int) -> str:
        """As the source's."""
        return self._source.where_metadata(int(self._ids[index]))

    def metadata(self, index: int) -> dict[str, Any]:
        """As the source's."""
        return self._source.metadata(int(self._ids[index]))

    def picture(self, index: int) -> bytes:
        """As the source's."""
        return self._source.picture(int(self._ids[index]))


def digest(*parts: str | bytes) -> str:
    """A short hash of texts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
        found.update(b"\0")
    return found.hexdigest()[:16]
