"""Gives each test the marker of its folder, its sandbox, and a check that nothing stays behind."""

import logging
import os
import re
import signal
import statistics
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests import sandbox

FOLDER = Path(__file__).parent
SANDBOXED = ("privileged", "sanity")
KINDS = ("unit", "rpc", "cluster", "kernels", *SANDBOXED)
CLUSTER_TIMEOUT_S = 180  # the first test of a session waits for the cluster, and its images

BEFORE = pytest.StashKey[sandbox.Traces]()
REPORTS = pytest.StashKey[list[pytest.TestReport]]()
OVERHEADS = pytest.StashKey[list[float]]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it runs in the background with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[OVERHEADS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = item.path.relative_to(FOLDER).parts[0]
        if kind in KINDS:
            item.add_marker(kind)
        if kind == "cluster" and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(CLUSTER_TIMEOUT_S))
        if kind in SANDBOXED and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root, for namespaces of its own"))
    items.sort(key=lambda item: not needs_sandbox(item))  # before a test has started a thread


def needs_sandbox(item: pytest.Item) -> bool:
    """Say whether a sandbox has to be made; inside one, or without root, there is nothing to do."""
    sandboxed = any(item.get_closest_marker(kind) for kind in SANDBOXED)
    return sandboxed and not sandbox.inside() and os.geteuid() == 0


def pytest_collection_finish(session: pytest.Session) -> None:
    kinds = {mark.name for item in session.items for mark in item.iter_markers()}
    if kinds & {"cluster", *SANDBOXED} and not sandbox.inside() and os.geteuid() == 0:
        sandbox.leave_machine()


def went_well(item: pytest.Item) -> bool:
    """Say whether a test came to its end without a failure; one that was interrupted did not."""
    reports = item.stash.get(REPORTS, [])
    return any(r.when == "call" for r in reports) and not any(r.failed for r in reports)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item) -> bool | None:
    """Leave the time limit of a sandboxed test to the sandbox."""
    return needs_sandbox(item) or None


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool | None:
    return needs_sandbox(item) or None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Run a sandboxed test in its sandbox, and report what was reported there."""
    if not needs_sandbox(item):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    outcome = sandbox.run(item)
    for report in outcome.reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    item.config.stash[OVERHEADS].append(outcome.overhead_s)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    sandbox.fail_skipped(report)
    item.stash.setdefault(REPORTS, []).append(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    sandbox.fail_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, trylast=True)  # while the output is captured, as it was before
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Fail a sandboxed test that passed and left something behind after its fixtures were gone."""
    yield
    if sandbox.inside() and went_well(item):
        _fail_on_traces(lambda: sandbox.Traces.of_sandbox().left_since(item.stash[BEFORE]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    overheads = terminalreporter.config.stash[OVERHEADS]
    if overheads:
        mean, most = statistics.fmean(overheads), max(overheads)
        terminalreporter.write_line(
            f"{len(overheads)} sandboxes cost {mean:.2f} s each ({most:.2f} s at the most)"
        )


@pytest.fixture
def workdir() -> Path:
    """Return the sandbox's work folder: a short path, an empty tmpfs, gone with the sandbox."""
    return sandbox.workdir()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a publish wait not long for its FUSE mount, but its caller for the answer."""
    from tests.rpc.serving import SOON_S

    monkeypatch.setattr("csi_fluid.rpc.node._MAX_WAIT_S", SOON_S)


@pytest.fixture(scope="session")
def grpc_up() -> Iterator[None]:
    """Keep gRPC's own machinery up for the session.

    It opens descriptors when it is first used, and closes them some time after it was last used:
    that would look like something that a test left behind.
    """
    import grpc.aio

    from tests.rpc.serving import rpc_loop

    async def start() -> None:
        grpc.aio.init_grpc_aio()

    with grpc.insecure_channel("127.0.0.1:1") as channel:
        rpc_loop().run(start())
        grpc.channel_ready_future(channel).cancel()
        yield
        grpc.aio.shutdown_grpc_aio()


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a descriptor or a thread behind, in a sandbox anything at all."""
    look = sandbox.Traces.of_sandbox if sandbox.inside() else sandbox.Traces.of_process
    request.node.stash[BEFORE] = before = look()
    yield
    if not sandbox.inside() and went_well(request.node):
        _fail_on_traces(lambda: look().left_since(before))


@pytest.fixture(autouse=True)
def _silence(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in this process whose WARNINGs and above are not what ``expects_log`` says."""
    yield
    if sandbox.inside():
        return
    marker = request.node.get_closest_marker("expects_log")
    patterns = marker.args if marker else ()
    loud = [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING]
    lines = [record.getMessage() for record in loud]
    unexpected = [line for line in lines if not any(re.search(p, line) for p in patterns)]
    missing = [p for p in patterns if not any(re.search(p, line) for line in lines)]
    assert not unexpected, f"logged, but not declared with expects_log: {unexpected}"
    assert not missing, f"declared with expects_log, but not logged: {missing}"


def _fail_on_traces(look: Callable[[], list[str]]) -> None:
    if left := sandbox.settle(look):
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)
