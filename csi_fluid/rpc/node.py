"""The Node service: each handler checks its request, hands the work on, and words the answer."""

import logging
import time
from dataclasses import dataclass

from csi_fluid._pb import csi_pb2, csi_pb2_grpc
from csi_fluid.errors import NotFound, Withdrawn
from csi_fluid.rpc import requests
from csi_fluid.rpc.call import Call
from csi_fluid.volumes.health import Health, Problem
from csi_fluid.volumes.publish import Publisher
from csi_fluid.volumes.readiness import Patience
from csi_fluid.volumes.stage import Stager
from csi_fluid.volumes.stats import Stats, Usage
from csi_fluid.volumes.unpublish import Unpublisher
from recover.rows import Method

# kubelet waits two minutes.  An answer must leave before that, to say what was missing; a caller
# without a deadline, or with a far one, is not kept longer than these.
_WAIT_S = 30.0
_MAX_WAIT_S = 110.0
_NO_DEADLINE_S = 3_600.0
_MARGIN_S = 1.0

_log = logging.getLogger(__name__)

_RPC = csi_pb2.NodeServiceCapability.RPC
_CAPABILITIES = (_RPC.STAGE_UNSTAGE_VOLUME, _RPC.GET_VOLUME_STATS, _RPC.GET_VOLUME_HEALTH)


@dataclass(frozen=True, slots=True)
class Volumes:
    """What can be done with volumes on a node."""

    stager: Stager
    publisher: Publisher
    unpublisher: Unpublisher
    stats: Stats
    health: Health


class Node(csi_pb2_grpc.NodeServicer):
    """Serves kubelet."""

    def __init__(
        self, node_id: str, volumes: Volumes, publish_method: Method = Method.BIND
    ) -> None:
        """Take the node's name, the volumes, and how to publish."""
        self._node_id = node_id
        self._volumes = volumes
        self._publish_method = publish_method

    def NodeGetInfo(
        self, request: csi_pb2.NodeGetInfoRequest, call: Call
    ) -> csi_pb2.NodeGetInfoResponse:
        """Return the node's name; there is no limit to volumes."""
        return csi_pb2.NodeGetInfoResponse(node_id=self._node_id)

    def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest, call: Call
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        """Return what the node service offers."""
        return csi_pb2.NodeGetCapabilitiesResponse(
            capabilities=[
                csi_pb2.NodeServiceCapability(rpc=_RPC(type=kind)) for kind in _CAPABILITIES
            ]
        )

    def NodeStageVolume(
        self, request: csi_pb2.NodeStageVolumeRequest, call: Call
    ) -> csi_pb2.NodeStageVolumeResponse:
        """Bring the volume's FUSE daemon to this node."""
        asked = requests.stage(request)
        self._volumes.stager.stage(asked.volume, asked.label, asked.sessions, _patience(call))
        return csi_pb2.NodeStageVolumeResponse()

    def NodeUnstageVolume(
        self, request: csi_pb2.NodeUnstageVolumeRequest, call: Call
    ) -> csi_pb2.NodeUnstageVolumeResponse:
        """Let the volume's FUSE daemon go, if its clean policy says so."""
        self._volumes.stager.unstage(requests.unstage(request), _patience(call))
        return csi_pb2.NodeUnstageVolumeResponse()

    def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, call: Call
    ) -> csi_pb2.NodePublishVolumeResponse:
        """Show the volume at the target."""
        asked = requests.publish(request, self._publish_method)
        if asked.idle_options:
            _log.warning(
                "mount options %s have no effect: a volume has its FUSE mount's own, and ro",
                requests.shorten(",".join(asked.idle_options)),
                extra={"volume": asked.wanted.volume_id},
            )
        self._volumes.publisher.publish(asked.wanted, _patience(call), unchecked=asked.unchecked)
        return csi_pb2.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, call: Call
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Remove what is at the target, and the target."""
        self._volumes.unpublisher.unpublish(requests.unpublish(request))
        return csi_pb2.NodeUnpublishVolumeResponse()

    def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest, call: Call
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        """Measure a volume."""
        volume_id, path = requests.stats(request)
        if not path.startswith("/"):
            raise NotFound(
                f"{requests.shorten(path)} is not absolute: no volume is published there"
            )
        in_bytes, in_inodes = self._volumes.stats.usage(volume_id, path)
        unit = csi_pb2.VolumeUsage
        return csi_pb2.NodeGetVolumeStatsResponse(
            usage=[_usage(in_bytes, unit.BYTES), _usage(in_inodes, unit.INODES)]
        )

    def NodeGetVolumeHealth(
        self, request: csi_pb2.NodeGetVolumeHealthRequest, call: Call
    ) -> csi_pb2.NodeGetVolumeHealthResponse:
        """Examine a volume."""
        volume_id, path = requests.health(request)
        problems = self._volumes.health.problems(volume_id, path)
        health = csi_pb2.VolumeHealth(
            volume_id=volume_id, health_statuses=[_entry(problem) for problem in problems]
        )
        return csi_pb2.NodeGetVolumeHealthResponse(volume_health=health)

    def NodeExpandVolume(
        self, request: csi_pb2.NodeExpandVolumeRequest, call: Call
    ) -> csi_pb2.NodeExpandVolumeResponse:
        """Offer nothing: a dataset's size is not the node's business."""
        raise NotImplementedError("NodeExpandVolume is not offered")

    def NodeGetStorageHealth(
        self, request: csi_pb2.NodeGetStorageHealthRequest, call: Call
    ) -> csi_pb2.NodeGetStorageHealthResponse:
        """Offer nothing: what is behind the FUSE daemons is not seen from here."""
        raise NotImplementedError("NodeGetStorageHealth is not offered")


def _patience(call: Call) -> Patience:
    left_s = call.time_remaining()
    if left_s > _NO_DEADLINE_S:  # none at all counts as ages
        wait_s = _WAIT_S
    else:
        wait_s = min(left_s - min(_MARGIN_S, left_s / 2), _MAX_WAIT_S)

    def check() -> None:
        if not call.is_active():
            raise Withdrawn("the caller gave up before the FUSE mount was ready; try again")

    return Patience(time.monotonic() + wait_s, check)


def _usage(usage: Usage, unit: csi_pb2.VolumeUsage.Unit.ValueType) -> csi_pb2.VolumeUsage:
    return csi_pb2.VolumeUsage(
        total=usage.total, available=usage.available, used=usage.used, unit=unit
    )


def _entry(problem: Problem) -> csi_pb2.VolumeHealth.VolumeHealthEntry:
    status = csi_pb2.INACCESSIBLE if problem.inaccessible else csi_pb2.DEGRADED
    return csi_pb2.VolumeHealth.VolumeHealthEntry(
        status=status, reason=problem.reason, message=problem.message
    )
