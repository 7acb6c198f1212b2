"""Static volumes: a name for a dataset that exists already, as Fluid's controller service has them.

Creating one allocates nothing: it remembers the parameters, which become the volume's context.
"""

import hashlib
import threading
from collections.abc import Mapping

from csi_fluid.errors import Conflict, InUse, NotFound
from recover.rows import Volume
from recover.store import Store

_MAX_NAME = 63  # longer ones are hashed, as Fluid does


class StaticVolumes:
    """The volumes that the controller service made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()

    def create(
        self, name: str, parameters: Mapping[str, str], *, required_bytes: int, limit_bytes: int
    ) -> Volume:
        """Return the volume of a name, making it if new; raises Conflict if it differs.

        Sizes are in bytes, 0 for any.
        """
        volume_id = _id_of(name)
        with self._lock:
            known = self._store.volume(volume_id)
            if known is None:
                capacity = required_bytes or limit_bytes
                known = Volume(volume_id, name, dict(parameters), capacity)
                self._store.put_volume(known)
            elif known.name != name:
                raise Conflict(
                    f"{name} has the same id as volume {known.name}; choose another name"
                )
        _compare(known, parameters, required_bytes, limit_bytes)
        return known

    def delete(self, volume_id: str) -> None:
        """Forget a volume; unknown is success.  Raises InUse while it is published here."""
        with self._lock:
            if self._store.volume(volume_id) is None:
                return
            users = [p.target for p in self._store.publications() if p.volume_id == volume_id]
            if users:
                raise InUse(
                    f"volume {volume_id} is still published at {users[0]}; unpublish it first"
                )
            self._store.remove_volume(volume_id)

    def get(self, volume_id: str) -> Volume:
        """Return a volume; raises NotFound."""
        volume = self._store.volume(volume_id)
        if volume is None:
            raise NotFound(f"there is no volume {volume_id}; create it first")
        return volume


def _id_of(name: str) -> str:
    lower = name.lower()
    if len(lower) <= _MAX_NAME:
        return lower
    return hashlib.sha1(lower.encode(), usedforsecurity=False).hexdigest()


def _compare(
    known: Volume, parameters: Mapping[str, str], required_bytes: int, limit_bytes: int
) -> None:
    if dict(known.parameters) != dict(parameters):
        raise Conflict(
            f"volume {known.name} exists with other parameters; "
            "delete it first or choose another name"
        )
    if known.capacity_bytes < required_bytes or (0 < limit_bytes < known.capacity_bytes):
        raise Conflict(
            f"volume {known.name} exists with {known.capacity_bytes} bytes, not between "
            f"{required_bytes} and {limit_bytes or 'any'}; delete it first or choose another name"
        )
