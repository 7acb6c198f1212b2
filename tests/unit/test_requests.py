"""Requests become checked values, or InvalidArgument; nothing else, whatever is sent."""

import contextlib
import posixpath
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, strategies as st

from csi_fluid._pb import csi_pb2
from csi_fluid.errors import InvalidArgument
from csi_fluid.rpc import requests, status
from recover.rows import Method, Publication

Mode = csi_pb2.VolumeCapability.AccessMode
SKIP_CHECK = "fluid.io/skip-check-mount-ready-target"

ANY_TEXT = st.text(max_size=60) | st.sampled_from(["/", "//", "..", "/..", "/a/../b", "/a\0", "."])


def request(**changes: Any) -> csi_pb2.NodePublishVolumeRequest:
    kind = csi_pb2.VolumeCapability
    capability = kind(mount=kind.MountVolume(), access_mode=Mode(mode=Mode.MULTI_NODE_READER_ONLY))
    fields: dict[str, Any] = {
        "volume_id": "v",
        "target_path": "/pods/mount",
        "volume_capability": capability,
        "volume_context": {"fluid_path": "/runtime-mnt/x"} | changes.pop("attributes", {}),
    }
    return csi_pb2.NodePublishVolumeRequest(**(fields | changes))


def publish(default_method: Method = Method.BIND, **changes: Any) -> requests.Publish:
    return requests.publish(request(**changes), default_method)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_what_is_accepted_is_canonical_and_what_is_not_is_told_shortly(
    volume_id: str, target: str, source: str, sub_path: str
):
    attributes = {"fluid_path": source, "fluid_sub_path": sub_path}
    outcome: Publication | str
    try:
        outcome = publish(volume_id=volume_id, target_path=target, attributes=attributes).wanted
    except InvalidArgument as error:
        outcome = status.message_of(error)
    if isinstance(outcome, str):
        assert 0 < len(outcome) < 1_100
        return
    wanted = outcome
    for path in (wanted.target, wanted.source):
        assert path.startswith("/")
        assert path != "/"
        assert path == posixpath.normpath(path)
    joined = posixpath.normpath(posixpath.join(wanted.source, wanted.sub_path))
    assert f"{joined}/".startswith(f"{wanted.source}/")
    assert not any("\0" in text for text in (wanted.volume_id, wanted.target, wanted.sub_path))


@given(st.binary(max_size=200))
def test_any_parsable_bytes_are_a_value_or_an_invalid_argument(data: bytes):
    message = csi_pb2.NodePublishVolumeRequest()
    with contextlib.suppress(DecodeError):
        message.ParseFromString(data)
    with pytest.raises(InvalidArgument):  # noise never happens to be complete
        requests.publish(message, Method.BIND)


@pytest.mark.parametrize(
    ("given_path", "path"),
    [
        ("/a//b/", "/a/b"),
        ("//a/./b", "/a/b"),
        ("/a b/\n", "/a b/\n"),
        ("/...", "/..."),
        ("/.a", "/.a"),
    ],
)
def test_one_path_has_one_spelling(given_path: str, path: str):
    assert publish(target_path=given_path).wanted.target == path


@pytest.mark.parametrize(
    ("sub_path", "expected"), [("", ""), (".", ""), ("a", "a"), ("a//b/", "a/b"), ("./a", "a")]
)
def test_a_sub_path_is_relative_and_plain(sub_path: str, expected: str):
    assert publish(attributes={"fluid_sub_path": sub_path}).wanted.sub_path == expected


@pytest.mark.parametrize(
    ("attribute", "environment", "method"),
    [
        ("", "bind", "bind"),
        ("bindMount", "bind", "bind"),
        ("symlink", "bind", "symlink"),
        ("", "symlink", "symlink"),
        ("bindMount", "symlink", "symlink"),  # as Fluid: the environment means every volume
    ],
)
def test_the_method_comes_from_volume_or_environment(attribute: str, environment: str, method: str):
    asked = publish(Method(environment), attributes={"node_publish_method": attribute})
    assert asked.wanted.method == method


@pytest.mark.parametrize(
    ("text", "unchecked"),
    [
        ("", False),
        ("All", True),
        ("None", False),
        ("MountPod", True),
        ("Sidecar", False),
        ("Sidecar, MountPod", True),
        ("Sidecar,All,nonsense", True),
        ("None,MountPod", False),
        (",", False),
    ],
)
def test_the_skipped_check_is_read_as_fluid_does(text: str, unchecked: bool):
    assert publish(attributes={SKIP_CHECK: text}).unchecked is unchecked


def test_no_value_of_an_unknown_attribute_is_ever_quoted():
    secret = "s" * 70_000
    with pytest.raises(InvalidArgument) as caught:
        publish(attributes={"accessKeySecret": secret})

    assert "sss" not in str(caught.value)


def test_pod_and_runtime_are_taken_over():
    asked = publish(
        attributes={
            "csi.storage.k8s.io/pod.name": "p",
            "csi.storage.k8s.io/pod.namespace": "n",
            "csi.storage.k8s.io/pod.uid": "u",
            "runtime_namespace": "rn",
            "runtime_name": "rt",
            "mount_type": "JuiceFS",
            "fuse.csi.fluid.io/recover-writable": "True",
        }
    ).wanted

    assert (asked.pod_name, asked.pod_namespace, asked.pod_uid) == ("p", "n", "u")
    assert (asked.runtime_namespace, asked.runtime_name) == ("rn", "rt")
    assert (asked.mount_type, asked.recover_writable) == ("JuiceFS", True)


def test_a_long_value_is_cut_and_its_length_told():
    assert requests.shorten("x" * 4_096) == f"{'x' * 200!r}... (4096 characters)"
    assert requests.shorten("a\nb") == r"'a\nb'"


@pytest.mark.parametrize(
    ("flags", "read_only", "idle"),
    [
        ([], False, ()),
        (["ro"], True, ()),
        (["noatime", "ro"], True, ("noatime",)),
        (["ro,noatime"], True, ("noatime",)),
        (["defaults, ro", "rw"], True, ()),
        (["rw", "defaults"], False, ()),
        (["errors=remount-ro", "rodir", "-o ro"], False, ("errors=remount-ro", "rodir", "-o ro")),
        ([",", " "], False, ()),
    ],
)
def test_mount_options_come_one_by_one_or_with_commas(flags, read_only, idle):
    mode = csi_pb2.VolumeCapability.AccessMode(mode=Mode.MULTI_NODE_MULTI_WRITER)
    mount = csi_pb2.VolumeCapability.MountVolume(mount_flags=flags)
    wanted = publish(volume_capability=csi_pb2.VolumeCapability(mount=mount, access_mode=mode))

    assert (wanted.wanted.read_only, wanted.idle_options) == (read_only, idle)
