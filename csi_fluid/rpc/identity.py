"""The Identity service: who the plugin is, and whether it is ready."""

from collections.abc import Callable

from google.protobuf import wrappers_pb2

import csi_fluid
from csi_fluid import driver
from csi_fluid._pb import csi_pb2, csi_pb2_grpc
from csi_fluid.rpc.call import Call


class Identity(csi_pb2_grpc.IdentityServicer):
    """Answers who and whether."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        """Take ready(): whether the state is reconciled with the kernel."""
        self._ready = ready

    def GetPluginInfo(
        self, request: csi_pb2.GetPluginInfoRequest, call: Call
    ) -> csi_pb2.GetPluginInfoResponse:
        """Return name and version."""
        return csi_pb2.GetPluginInfoResponse(name=driver.NAME, vendor_version=csi_fluid.__version__)

    def GetPluginCapabilities(
        self, request: csi_pb2.GetPluginCapabilitiesRequest, call: Call
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        """Return that there is a controller service."""
        service = csi_pb2.PluginCapability.Service
        capability = csi_pb2.PluginCapability(service=service(type=service.CONTROLLER_SERVICE))
        return csi_pb2.GetPluginCapabilitiesResponse(capabilities=[capability])

    def Probe(self, request: csi_pb2.ProbeRequest, call: Call) -> csi_pb2.ProbeResponse:
        """Return whether calls are welcome; not yet is no error."""
        return csi_pb2.ProbeResponse(ready=wrappers_pb2.BoolValue(value=self._ready()))
