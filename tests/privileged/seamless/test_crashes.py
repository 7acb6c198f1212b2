"""An application that reads through crashes of an unmodified daemon sees waiting, and no error."""

import errno
import os
import random
import re
import signal
import sys
from collections.abc import Mapping

import pytest

from recover.linux import facilities
from tests.harness import Bindfs, Gocryptfs, Node, Rclone, S3fs, pause
from tests.harness.node import MakeFilesystem
from tests.harness.readers import KINDS, Readers, tree
from tests.privileged.healing import whole
from tests.privileged.seamless.held import HeldHealing

_SKIPPED = r"cp: skipping file \S+, as it was replaced while being copied"
_REPLACED = rf"\d+: Wrong\(.cp: 1 {_SKIPPED}(\\n{_SKIPPED})*.\)"
_LOST = os.strerror(errno.ESTALE)
CRASHES = int(os.environ.get("SEAMLESS_CRASHES", "6"))  # of each daemon


@pytest.mark.timeout(40 + 8 * CRASHES)
@pytest.mark.parametrize(
    ("filesystem", "kinds"),
    [
        (Bindfs, KINDS),
        (Gocryptfs, KINDS),
        # A folder of a bucket has another time in each life of the daemon: tar says so.
        (Rclone, tuple(kind for kind in KINDS if kind != "tar")),
        # And other inode numbers, by which cp, find and grep compare.
        (S3fs, ("oldfd", "mmap", "exec", "cwd")),
    ],
)
def test_all_kinds_of_readers_see_no_error(
    node: Node, heal: HeldHealing, filesystem: MakeFilesystem, kinds: tuple[str, ...]
):
    data = node.dataset("demo", filesystem, files=tree())
    main = heal.container(node, data)
    chance = random.Random(1)

    with Readers(main.pid, "/data", kinds) as readers:
        for number in range(CRASHES):
            pause(chance.random())
            is_kept = filesystem is Gocryptfs  # it goes on serving after SIGTERM
            data.daemon.kill((signal.SIGKILL, signal.SIGTERM)[number % 2 and not is_kept])
            data.daemon.restart(2 * chance.random())
            heal.await_served(data)
        results = readers.results()

    told = (_told(kind, found) for kind, found in results.items())
    sys.stdout.write(f"{CRASHES} crashes: {'; '.join(told)}\n")
    assert {kind: bad for kind, found in results.items() if (bad := _errors(found))} == {}
    assert all(found["passes"] or found["errors"] for found in results.values()), results
    assert whole(node, main.sees, "/data", data)
    assert heal.held(data).counts["refused"] == 0


def _told(kind: str, found: Mapping[str, object]) -> str:
    """Say how often a kind came through, and what it met, also what cannot be helped."""
    text = f"{kind} {found['passes']} x, longest {found['longest_s']:.1f} s"
    return f"{text}, {found['errors']}" if found["errors"] else text


def _errors(found: Mapping[str, object]) -> list[str]:
    """Return what went wrong, without what cannot be helped.

    Between its look at a file and its opening it cp waits for nobody: a mount that is swapped just
    then has another st_dev, and cp says so.  And before Linux 6.9 what the daemon had read is lost.
    """
    errors = found["errors"]
    assert isinstance(errors, list)
    helpless = _REPLACED if facilities.has("fuse_resend") else rf"{_REPLACED}|.*{_LOST}.*"
    return [error for error in errors if not re.fullmatch(helpless, error)]
