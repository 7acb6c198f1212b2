"""Stage a volume: bring its FUSE daemon to this node by a node label.  Nothing is mounted.

One stage or unstage of a volume at a time; the label is set again by each, which costs little and
puts right what somebody removed.

A dead mount at `fluid_path` is left alone, where Fluid's plugin unmounts it: an unmount here would
cut off our own view and no one else's, so that a new mount on the node's dead one would never
arrive, and recovery needs the dead mount to find the copies that hang on it.
"""

import logging
import os
import threading
from pathlib import Path

from csi_fluid.errors import InUse, NotReady
from csi_fluid.kube import (
    ON_DEMAND,
    ON_FUSE_CHANGED,
    ON_RUNTIME_DELETED,
    SESSION_MANAGER_LABEL,
    Fuse,
    Kube,
    Volume,
)
from csi_fluid.volumes import generation
from csi_fluid.volumes.readiness import Patience
from csi_fluid.volumes.targets import Claims
from csi_fluid.volumes.users import Users
from recover.linux.probe import Prober
from recover.locks import Locks

_SESSIONS_SOCKET = "sessmgrd.sock"
_SESSIONS_WAIT_S = 30.0
_TICK_S = 0.5
_POLICIES = (ON_DEMAND, ON_RUNTIME_DELETED, ON_FUSE_CHANGED)

_log = logging.getLogger(__name__)


class Stager:
    """Stages volumes; one for all RPCs."""

    def __init__(
        self, kube: Kube, users: Users, claims: Claims, prober: Prober, mount_root: str
    ) -> None:
        self._kube = kube
        self._users = users
        self._claims = claims
        self._prober = prober
        self._mount_root = mount_root
        self._volumes = Locks()  # its own: that of a target is never held over an API call

    def stage(self, volume: Volume, label: str, sessions: str, patience: Patience) -> None:
        """Label this node for the volume's FUSE daemon; label is the key if known, else "".

        sessions: the folder of EFC's session manager, which is brought to the node first; "" for
        none.  Raises Busy, NotReady, Withdrawn, and what kube raises.
        """
        with self._volumes.hold(volume.volume_id):
            if sessions:
                self._kube.label_node(SESSION_MANAGER_LABEL, patience.until)
                self._await_sessions(Path(sessions, _SESSIONS_SOCKET), patience)
            key = label or self._kube.label_of(volume, patience.until)
            if key:
                self._kube.label_node(key, patience.until)

    def unstage(self, volume_id: str, patience: Patience) -> None:
        """Remove the label if the volume's clean policy says so.

        Raises Busy, InUse while the volume is published here, Unanswered, and what kube raises.
        """
        with self._volumes.hold(volume_id):
            fuse = self._kube.fuse_of(volume_id, patience.until)
            if fuse is None or not self._may_leave(fuse):
                return
            # From here to the end nobody publishes the volume: what is free now stays free.
            with self._claims.bar(volume_id):
                if user := self._users.of(volume_id, fuse.source):
                    raise InUse(
                        f"volume {volume_id} is still published at {user}; unpublish it first"
                    )
                self._kube.unlabel_node(fuse.label, patience.until)

    def _may_leave(self, fuse: Fuse) -> bool:
        if fuse.policy not in _POLICIES:
            raise NotReady(
                "CleanPolicyUnknown",
                f"the runtime of {'/'.join(fuse.runtime[1:])} has clean policy {fuse.policy!r}; "
                f"expected one of {', '.join(_POLICIES)}",
            )
        if fuse.policy != ON_FUSE_CHANGED:
            return fuse.policy == ON_DEMAND
        running = generation.of_daemon(self._prober, self._mount_root, fuse.runtime)
        return bool(running and fuse.generation and running != fuse.generation)

    def _await_sessions(self, socket: Path, patience: Patience) -> None:
        until = min(patience.left_s, _SESSIONS_WAIT_S)
        tick = threading.Event()  # never set: what is waited for makes no sound here
        waited = 0.0
        while not self._prober.call(("session manager", socket), os.path.lexists, socket):
            if waited >= until:
                raise NotReady(
                    "SessionManagerMissing",
                    f"EFC's session manager does not listen at {socket}; "
                    "look at its pod on this node",
                )
            tick.wait(_TICK_S)
            waited += _TICK_S
            _ = patience.left_s  # raises Withdrawn
