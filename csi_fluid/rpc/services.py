"""The methods of a service as its descriptor has them, and the object that offers them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError, Message

from csi_fluid.errors import InvalidArgument
from csi_fluid.rpc import status
from csi_fluid.rpc.status import Code
from csi_fluid.rpc.unary import Answer, Call, Reply


@dataclass(frozen=True, slots=True)
class Method:
    """One method: what its request is, and who handles it."""

    name: str
    request: type[Message]
    handle: Callable[[Any, Call], Message]

    def parse(self, data: bytes) -> Message:
        """Return a request; raises InvalidArgument."""
        try:
            return self.request.FromString(data)
        except DecodeError as error:
            raise InvalidArgument(
                f"the request is not a {self.request.DESCRIPTOR.full_name} ({len(data)} bytes); "
                "check the caller"
            ) from error


def methods(file: FileDescriptor, **servicers: object) -> dict[str, Method]:
    """Return the methods of services by path: a servicer, given by its service's name, has all."""
    return {
        f"/{file.package}.{name}/{method.name}": Method(
            method.name,
            message_factory.GetMessageClass(method.input_type),
            getattr(servicer, method.name),
        )
        for name, servicer in servicers.items()
        for method in file.services_by_name[name].methods
    }


def unknown(path: str) -> Reply:
    """Return the reply to a call of a method that is not there."""
    return Reply(code=Code.UNIMPLEMENTED, reason=f"there is no method {path[:100]}")


def refused(error: Exception) -> Reply:
    """Return the reply to a call that failed."""
    return Reply(code=status.code_of(error), reason=status.message_of(error))


def answerer(offered: dict[str, Method]) -> Answer:
    """Return what answers calls of these methods and tells nobody of them."""

    def answer(path: str, data: bytes, call: Call) -> Reply:
        method = offered.get(path)
        if method is None:
            return unknown(path)
        try:
            return Reply(method.handle(method.parse(data), call).SerializeToString())
        except Exception as error:  # noqa: BLE001  the top of the call: everything becomes a status
            return refused(error)

    return answer
