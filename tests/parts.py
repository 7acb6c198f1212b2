"""Runs every test there is, in parts side by side: ``make test``.

Most of a whole run is waiting, for kubelet above all. So parts that wait run beside parts that
work: the parts of a lane come one after the other, the lanes go side by side. A part is a pytest of
its own, and all that it says goes into a file of its own below .cache/tests. On the terminal come
how far each part is, a failure when it happens, what a part with failures said once it is over, and
at the end a line for each part and one for all.
"""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
LOGS = ROOT / ".cache/tests"
LOOK_EVERY_S = 2.0
TELL_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the tests, and the steps of .ci/setup that they need.

    One with an environment of its own runs again what another part runs too.
    """

    name: str
    paths: tuple[str, ...]
    without: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> set[Path]:
        """Return the modules that it runs."""
        left_out = tuple(ROOT / path for path in self.without)
        return {
            file
            for path in self.paths
            for file in (ROOT / path, *(ROOT / path).rglob("test_*.py"))
            if file.is_file() and not any(file.is_relative_to(path) for path in left_out)
        }


WITHOUT_PLUGIN = (  # on a cluster of their own: the node plugin comes and goes on the other one
    "tests/cluster/tools",
    "tests/cluster/test_install.py",
    "tests/cluster/test_serverless.py",
    "tests/cluster/test_serverless_node.py",
    "tests/cluster/test_serverless_walkthrough.py",
    "tests/cluster/test_webhook.py",
)
LATER = tuple(  # on one more cluster, in a lane that would be over before the others
    f"tests/cluster/test_{name}.py" for name in ("policies", "replaced", "reset_backoff", "scale")
)
AGENTS = tuple(
    f"tests/privileged/test_agent{name}.py"
    for name in ("", "_chaos", "_cost", "_killed", "_life", "_node")
)
ON_OLD_KERNELS = (  # whose every newer facility is refused, see docs/kernels.md
    *("anchor", "anchors", "mounts", "publish", "unpublish"),
    *("heal_topologies", "heal_propagation", "heal_killed", "heal_crashes"),
    *("places", "fuse_root", "unkillable"),
)
SEAMLESS = ("tests/privileged/seamless",)
SLOW = ("privileged", "sanity", "cluster", "kernels")  # kernels are `make kernels`
LANES = (
    (
        Part(
            "quick",
            ("tests",),
            without=tuple(f"tests/{name}" for name in SLOW),
            needs=("helm",),
        ),
        Part(
            "refused",
            tuple(f"tests/privileged/test_{name}.py" for name in ON_OLD_KERNELS),
            environ={"CSI_FLUID_REFUSE": "all", "REQUIRE_ALL": ""},  # visits are skipped there
        ),
        Part("agents", AGENTS),
        Part("sanity", ("tests/sanity",), needs=("csi-sanity",)),
    ),
    (
        Part("privileged", ("tests/privileged",), without=(*SEAMLESS, *AGENTS)),
        Part("seamless", SEAMLESS),
    ),
    (Part("cluster", ("tests/cluster",), without=(*WITHOUT_PLUGIN, *LATER), needs=("cluster",)),),
    (
        Part("serverless", WITHOUT_PLUGIN, needs=("cluster",)),
        Part("later", LATER),
    ),
)


@dataclass(frozen=True, slots=True)
class Heard:
    """What is to be learnt from what a pytest said so far.

    done: how many tests of how many, as "3/40"; empty before the first.
    failures: one line of text each. report: what was said of them.
    passed, failed: the counts of the closing line, an error being a failure; 0 without one.
    """

    done: str
    failures: tuple[str, ...]
    report: str
    passed: int
    failed: int

    @classmethod
    def of(cls, said: str) -> "Heard":
        """Read the output of ``pytest -v -o console_output_style=count``."""
        done = re.findall(r"\[ *(\d+/\d+)\]$", said, re.MULTILINE)[-1:]
        failures = re.findall(r"^(\S.*::.* (?:FAILED|ERROR))\b.*\[ *\d+/\d+\]$", said, re.MULTILINE)
        begin = re.search(r"^=+ (FAILURES|ERRORS) =+$", said, re.MULTILINE)
        closing = "".join(re.findall(r"^=+ .* in [\d.]+s.* =+\n", said, re.MULTILINE)[-1:])
        counts = re.findall(r"(\d+) (passed|failed|error)", closing)
        return cls(
            done="".join(done),
            failures=tuple(failures),
            report=said[begin.start() :].removesuffix(closing) if begin else said[-4000:],
            passed=sum(int(count) for count, what in counts if what == "passed"),
            failed=sum(int(count) for count, what in counts if what != "passed"),
        )


class Run:
    """One part on its way, from its set-up to its last line."""

    def __init__(self, part: Part, logs: Path) -> None:
        self.part = part
        self.log = logs / f"{part.name}.log"
        self.status: int | None = None
        self._began = self._ended = 0.0
        self._told = 0

    async def go(self) -> None:
        """Run it. When cancelled, end all of it first."""
        self._began = time.monotonic()
        try:
            with self.log.open("wb") as log:
                self.status = await self._run_all(log)
        finally:
            self._ended = time.monotonic()

    async def _run_all(self, log: IO[bytes]) -> int:
        """Run the set-up and pytest; return the first status that is not 0."""
        for step in self.part.needs:
            if status := await _run((".ci/setup", step), log):
                return status
        options = ("-v", "-o", "console_output_style=count", "-p", "no:cacheprovider")
        tests = (*self.part.paths, *(f"--ignore={path}" for path in self.part.without))
        pytest = (sys.executable, "-m", "pytest", *options, *tests)
        environ = {"CLUSTER_NAME": f"test-{self.part.name}", **self.part.environ}
        return await _run(pytest, log, **environ)

    @property
    def heard(self) -> Heard:
        """Return what it said so far."""
        said = self.log.read_text("utf-8", "replace") if self._began else ""
        return Heard.of(said)

    @property
    def failed(self) -> int:
        """Return how many tests failed; a part that ended badly without one counts as one."""
        return self.heard.failed or int(self.status != 0)

    @property
    def progress(self) -> str:
        """Return how far it is; while it is set up, what the set-up said last."""
        if not self._began:
            return f"{self.part.name} waits"
        if self._ended:
            return f"{self.part.name} is over"
        heard = self.heard
        last_line = "".join(heard.report.splitlines()[-1:])
        return f"{self.part.name} {heard.done or last_line:.60}"

    def news(self) -> Iterator[str]:
        """Yield what has to be told now: each failure once, and what was said of all at the end."""
        heard = self.heard
        yield from (f"{self.part.name}: {failure}" for failure in heard.failures[self._told :])
        self._told = len(heard.failures)
        if self.status:
            yield heard.report
            yield f"{self.part.name} ended with status {self.status}; all it said: {self.log}"

    def summary(self) -> str:
        """Return its line of the table."""
        minutes, seconds = divmod(int(self._ended - self._began), 60)
        counts = f"{self.heard.passed:6} passed {self.failed:4} failed"
        return f"{self.part.name:12}{counts}   {minutes}:{seconds:02}"


async def _run(command: Sequence[str], log: IO[bytes], **environment: str) -> int:
    """Run a command and return its status. When cancelled, interrupt it as Ctrl-C would.

    It has a session of its own, or Ctrl-C would come twice, and the second one breaks off what
    the first one made pytest clean up. It is interrupted too when we are killed.
    """
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "INT", *command),
        cwd=ROOT,
        env=os.environ | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGINT)
            await process.wait()


async def _go_all(lanes: Sequence[Sequence[Run]]) -> None:
    """Run all lanes, and tell how far they are until the last one is over."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, os.kill, os.getpid(), signal.SIGINT)
    telling = asyncio.create_task(_tell([run for lane in lanes for run in lane]))
    try:
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(_go_along(lane))
    finally:
        telling.cancel()


async def _go_along(lane: Sequence[Run]) -> None:
    for run in lane:
        await run.go()
        _say(*run.news())


async def _tell(runs: Sequence[Run]) -> None:
    began = told = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        for run in runs:
            if run.status is None:
                _say(*run.news())
        if time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            minutes, seconds = divmod(int(told - began), 60)
            _say(f"{minutes}:{seconds:02}  {', '.join(run.progress for run in runs)}")


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def main(lanes: Sequence[Sequence[Part]] = LANES, logs: Path = LOGS) -> int:
    """Run all parts; return 0 if every test passed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored, as in the background
    logs.mkdir(parents=True, exist_ok=True)
    ways = [[Run(part, logs) for part in lane] for lane in lanes]
    try:
        asyncio.run(_go_all(ways))
    except KeyboardInterrupt:
        _say("interrupted: what ran has ended, and its clusters with it")
    runs = [run for way in ways for run in way]
    failed = sum(run.failed for run in runs)
    _say(*(run.summary() for run in runs))
    _say(f"{sum(run.heard.passed for run in runs)} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
