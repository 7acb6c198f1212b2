"""`csi-fluid doctor` where something is missing: what is missing is told, and nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from csi_fluid.cli.facilities import Finding
from recover.linux import refusal
from tests import sandbox
from tests.harness import confined

DOCTOR = (sys.executable, "-m", "csi_fluid", "doctor", "--kube=none", "--json")
IN_PAIRS = """
import importlib, itertools, json, sys
from csi_fluid.cli import facilities as doctor
from recover.linux import facilities, refusal, syscalls
from recover.linux.probe import Prober

seen = []
for pair in [(), *itertools.combinations(refusal.OPTIONAL, 2)]:
    refusal._refused = refusal.parse(",".join(name + sys.argv[1] for name in pair))
    importlib.reload(syscalls)
    facilities.lack.cache_clear()
    seen.append([pair, [(f.what, f.verdict, f.seen) for f in doctor.find(Prober())]])
print(json.dumps(seen))
"""
HOST_PID = ("unshare", "--mount")  # where process 1 is in another mount namespace, it is the host's
FLAGS_OF = {"move_mount": {"move_mount_beneath"}}
ENTERING = "entering a mount namespace"
MOUNTING = "mounting a volume"


def doctor(*before: str, environ: Mapping[str, str] = {}) -> tuple[int, dict[str, Finding]]:
    done = subprocess.run(
        [*before, *DOCTOR],
        env={**os.environ, "CSI_FLUID_REFUSE": "", **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout, done.stderr
    found = [Finding(**finding) for finding in json.loads(done.stdout)]
    return done.returncode, {finding.what: finding for finding in found}


def without(capability: str) -> tuple[str, ...]:
    return "setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}"


def absent(found: list[tuple[str, str, str]]) -> set[str]:
    return {what for what, verdict, _ in found if verdict != "ok"} & refusal.OPTIONAL.keys()


def lacking(found: Mapping[str, Finding]) -> set[str]:
    return {what for what, finding in found.items() if finding.verdict != "ok"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("answer", ["", "=EPERM", "=EACCES"])
def test_of_each_two_that_are_refused_both_are_told_and_no_other(answer: str):
    done = subprocess.run(
        [sys.executable, "-c", IN_PAIRS, answer], capture_output=True, check=True, timeout=110
    )
    (_, as_it_is), *pairs = json.loads(done.stdout)

    assert len(pairs) == len(refusal.OPTIONAL) * (len(refusal.OPTIONAL) - 1) / 2
    for pair, found in pairs:
        seen = {what: text for what, _, text in found}
        refused = set(pair).union(*(FLAGS_OF.get(name, set()) for name in pair))
        assert absent(found) == refused | absent(as_it_is)
        assert seen[MOUNTING].startswith("works"), "all of them have stand-ins"
        unusable = [name for name in ("open_tree", "move_mount") if name in pair]
        assert all((name in seen[ENTERING]) is (name in unusable) for name in pair)
        if "move_mount" in pair:
            assert seen["move_mount_beneath"] == "cannot be tried without move_mount"


def test_without_the_right_to_mount_that_is_told_and_nothing_else_blamed():
    status, found = doctor(*without("sys_admin"))

    assert status == 1
    for what in (MOUNTING, ENTERING, "move_mount"):
        assert "CAP_SYS_ADMIN is missing" in found[what].seen + found[what].follows
    assert found["CAP_SYS_CHROOT"].verdict == found["openat2"].verdict == "ok"


def test_without_the_right_to_change_the_root_no_container_is_entered():
    before = doctor(*HOST_PID)[1]
    status, found = doctor(*HOST_PID, *without("sys_chroot"))

    assert status == 0
    assert before["the host's processes"].seen.endswith("heals by namespace")
    assert {ENTERING, "CAP_SYS_CHROOT"} <= lacking(found)
    assert "CAP_SYS_CHROOT is missing" in found[ENTERING].follows
    assert found["the host's processes"].seen.endswith("heals by propagation")
    assert found[MOUNTING].verdict == "ok"


def test_without_the_hosts_processes_that_is_told_and_volumes_are_served():
    with_it, (status, found) = doctor(*HOST_PID)[1], doctor()

    assert status == 0
    assert lacking(found) - lacking(with_it) <= {"the host's processes", "process events"}
    assert "hostPID" in found["the host's processes"].follows


def test_without_the_right_to_look_at_others_only_that_is_told():
    everything = lacking(doctor()[1])
    status, found = doctor(*without("sys_ptrace"))

    assert status == 0
    assert lacking(found) - everything == {"CAP_SYS_PTRACE"}


def test_a_right_that_has_nothing_to_do_with_a_refusal_is_not_blamed():
    refuse = {"CSI_FLUID_REFUSE": "mount_setattr=EPERM"}
    _, found = doctor(*without("sys_ptrace"), environ=refuse)

    assert "CAP_SYS_PTRACE" not in found["mount_setattr"].seen


@pytest.mark.parametrize("answer", ["EPERM", "EACCES"])
def test_a_profile_that_forbids_mounting_is_named(answer: str):
    status, found = doctor(*confined.command(f"mount={answer}"))

    assert status == 1
    assert found[MOUNTING].verdict == "missing"
    assert "seccomp profile" in found[MOUNTING].follows
    assert found["CAP_SYS_ADMIN"].verdict == "ok"


def test_a_profile_that_forbids_entering_leaves_volumes_served():
    status, found = doctor(*confined.command("setns=EPERM"))

    assert status == 0
    assert "seccomp profile" in found[ENTERING].follows


def test_a_security_module_that_forbids_mounting_is_named():
    sandbox.require(kernel=(5, 13))
    mounted = ("sh", "-c", 'mount -t securityfs x "$0" && exec "$@"', "/sys/kernel/security")
    status, found = doctor("unshare", "--mount", *mounted, *confined.command("landlock"))

    assert status == 1
    assert "a security module (" in found[MOUNTING].follows
    assert "landlock" in found[MOUNTING].follows


def test_a_container_without_a_folder_for_temporary_files_is_not_said_to_lack_rights():
    nothing_written = ("prlimit", "--fsize=0")
    status, found = doctor(*nothing_written)
    old_status, old = doctor(*nothing_written, environ={"CSI_FLUID_REFUSE": "open_tree"})

    assert (status, found[MOUNTING].verdict) == (0, "limited")
    assert (old_status, old[MOUNTING].verdict) == (1, "missing")
    assert "/tmp" in found[MOUNTING].follows
