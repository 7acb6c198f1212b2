"""Do the experiments: each subject in a box of its own, the rounds of all of them in turn."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.bench.boxes import Box, BoxError
from tests.bench.experiments import Experiment
from tests.bench.subjects import Spec

Samples = dict[str, list[float]]
BARE = Spec("bare", "")


@dataclass(slots=True)
class Result:
    """What one subject did in one experiment; problem says why it was taken out, "" if it was not.

    rounds and s are what it played and how long that took.
    """

    samples: Samples = field(default_factory=dict)
    rounds: int = 0
    s: float = 0.0
    problem: str = ""


Results = dict[str, dict[str, Result]]  # experiment -> subject -> result


class Runner:
    """One run; results grow while it goes."""

    def __init__(
        self, experiments: Sequence[Experiment], plugins: Sequence[Spec], say: Callable[[str], None]
    ) -> None:
        self.results: Results = {}
        self._experiments = experiments
        self._plugins = plugins
        self._say = say
        self._where = ""

    def go(self) -> None:
        """Do all of it; a subject in whose box something goes wrong is out of that experiment."""
        for number, experiment in enumerate(self._experiments, 1):
            self._where = f"[{number}/{len(self._experiments)}] {experiment.name}"
            plugins = self._plugins[:1] if experiment.is_ours_alone else self._plugins
            specs = [*plugins, *([BARE] if experiment.with_bare else [])]
            results = self.results[experiment.name] = {spec.name: Result() for spec in specs}
            with contextlib.ExitStack() as boxes:
                playing = self._prepare(experiment, specs, results, boxes)
                self._play(experiment, playing, results)
            self._say(f"{self._where}: done")

    def _prepare(
        self,
        experiment: Experiment,
        specs: Sequence[Spec],
        results: dict[str, Result],
        boxes: contextlib.ExitStack,
    ) -> dict[str, Box]:
        playing = {}
        for spec in specs:
            box = boxes.enter_context(Box(functools.partial(self._talk, spec.name)))
            box.start()
            self._talk(spec.name, "preparing")
            with _problem_of(results[spec.name]):
                box.prepare(experiment.part, spec, experiment.arguments)
                playing[spec.name] = box
        return playing

    def _play(
        self, experiment: Experiment, playing: dict[str, Box], results: dict[str, Result]
    ) -> None:
        for number, arguments in enumerate(experiment.rounds, 1):
            for name, box in playing.items():
                result = results[name]
                if result.problem or result.s > experiment.budget_s:
                    continue
                self._talk(name, f"round {number} of {len(experiment.rounds)}")
                began = time.monotonic()
                with _problem_of(result):
                    _add(result, box.round(arguments))
                result.s += time.monotonic() - began

    def _talk(self, subject: str, text: str) -> None:
        self._say(f"{self._where}: {subject}: {text}")


@contextlib.contextmanager
def _problem_of(result: Result) -> Iterator[None]:
    try:
        yield
    except BoxError as error:
        result.problem = str(error)


def _add(result: Result, samples: Samples) -> None:
    result.rounds += 1
    for name, values in samples.items():
        result.samples.setdefault(name, []).extend(values)
