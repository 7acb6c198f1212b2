"""The Controller service: static volumes, which name a dataset that exists."""

from csi_fluid._pb import csi_pb2, csi_pb2_grpc
from csi_fluid.rpc import requests
from csi_fluid.rpc.call import Call
from csi_fluid.volumes.static import StaticVolumes
from recover.rows import Volume


class Controller(csi_pb2_grpc.ControllerServicer):
    """Remembers volumes."""

    def __init__(self, volumes: StaticVolumes) -> None:
        self._volumes = volumes

    def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest, call: Call
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        """Return that volumes are made and deleted, and no more."""
        rpc = csi_pb2.ControllerServiceCapability.RPC
        capability = csi_pb2.ControllerServiceCapability(rpc=rpc(type=rpc.CREATE_DELETE_VOLUME))
        return csi_pb2.ControllerGetCapabilitiesResponse(capabilities=[capability])

    def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest, call: Call
    ) -> csi_pb2.CreateVolumeResponse:
        """Remember a volume, or find that it is known."""
        asked = requests.create(request)
        volume = self._volumes.create(
            asked.name,
            asked.parameters,
            required_bytes=asked.required_bytes,
            limit_bytes=asked.limit_bytes,
        )
        return csi_pb2.CreateVolumeResponse(volume=_wire(volume))

    def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest, call: Call
    ) -> csi_pb2.DeleteVolumeResponse:
        """Forget a volume."""
        self._volumes.delete(requests.delete(request))
        return csi_pb2.DeleteVolumeResponse()

    def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, call: Call
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        """Confirm what was asked, all of it or nothing."""
        known = dict(self._volumes.get(requests.validate(request)).parameters)
        problem = requests.unsupported(request.volume_capabilities)
        for field in ("volume_context", "parameters"):
            given = dict(getattr(request, field))
            if given and given != known:
                problem = problem or f"{field} is not what the volume was created with"
        response = csi_pb2.ValidateVolumeCapabilitiesResponse(message=problem)
        if not problem:
            response.confirmed.volume_capabilities.extend(request.volume_capabilities)
            response.confirmed.volume_context.update(request.volume_context)
            response.confirmed.parameters.update(request.parameters)
        return response


def _wire(volume: Volume) -> csi_pb2.Volume:
    return csi_pb2.Volume(
        volume_id=volume.volume_id,
        capacity_bytes=volume.capacity_bytes,
        volume_context=volume.parameters,
    )
