"""What is measured, how often, in which order: data for run.py.  Pure.

Every subject goes through the same rounds with the same random times, which the seed decides.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GROUPS = {
    "heal": "30 crashes under 1, 100 and 1,000 containers",
    "private": "30 crashes under 100 and 1,000 containers without mount propagation",
    "layers": "60 crashes, the daemon back at once, with and without the host's processes",
    "hung": "crashes while the daemon of another dataset hangs",
    "publish": "publish, publish again and unpublish, beside other publications and mounts",
    "start": "start to the first answered Probe",
    "seamless": "30 crashes under 100 readers with SeamlessRecovery, and how fast they read on",
    "idle": "memory, threads and CPU time of a plugin with nothing to do",
}
_PERIOD_S = 5.0  # of Fluid's loop and of ours: the phase of a crash is random in it
_DOWN_S = 1.0


@dataclass(frozen=True, slots=True)
class Experiment:
    """One stage and the rounds that are played on it; group is one of GROUPS.

    is_ours_alone: no other plugin can do it.
    A subject that used up budget_s plays no further round: a slow one must not take all day.
    """

    name: str
    part: str
    arguments: dict[str, Any]
    rounds: Sequence[dict[str, Any]]
    with_bare: bool = False
    is_ours_alone: bool = False
    budget_s: float = 150.0

    @property
    def group(self) -> str:
        """Return what `--only` selects it by."""
        return self.name.partition("-")[0]


def choose(*, quick: bool, only: Sequence[str], seed: int) -> list[Experiment]:
    """Return the experiments of some groups (none named: all) in the order they are done in."""
    every = [
        *_heals(quick=quick, seed=seed),
        *_publishes(quick=quick),
        *_starts(quick=quick),
        *_seamless(quick=quick, seed=seed),
        *_idles(quick=quick),
    ]
    return [experiment for experiment in every if not only or experiment.group in only]


def _heals(*, quick: bool, seed: int) -> list[Experiment]:
    rest_s = _PERIOD_S / 5 if quick else _PERIOD_S
    return [
        *(
            Experiment(
                f"{group}-{containers}",
                "heal",
                {"containers": containers, "private": group == "private"}
                | {"timeout_s": 60.0 + containers / 5},
                _crashes(f"{seed} {containers}", crashes if quick else 30, rest_s=rest_s),
                with_bare=not quick or containers < 1_000,
                budget_s=240.0,
            )
            for group, containers, crashes in (
                *(("heal", 1, 10), ("heal", 100, 5), ("heal", 1_000, 2)),
                *(("private", 100, 5), ("private", 1_000, 2)),
            )
        ),
        *(
            Experiment(
                name,
                "heal",
                {"containers": 1, "timeout_s": 60.0, "host_pid": host_pid},
                [{"rest_s": 0.0, "down_s": 0.0}] * 60,
                budget_s=30.0 if quick else 330.0,
            )
            for name, host_pid in (("layers", True), ("layers-alone", False))
        ),
        Experiment(
            "hung",
            "heal",
            {"containers": 1, "hung": True, "timeout_s": 30.0},
            _crashes(f"{seed} hung", 3 if quick else 10, rest_s=rest_s),
            budget_s=60.0,
        ),
    ]


def _crashes(seed: str, count: int, *, rest_s: float) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        {
            "rest_s": round(chance.uniform(0.0, rest_s), 3),
            "down_s": round(chance.uniform(0.0, _DOWN_S), 3),
        }
        for _ in range(count)
    ]


def _publishes(*, quick: bool) -> list[Experiment]:
    beside = {
        "publish-0": {"publications": 0},
        "publish-1000": {"publications": 1_000},
        "publish-crowd": {"publications": 1_000, "mounts": 10_000},
    }
    rounds = [{"calls": 25}] * (2 if quick else 12)
    return [
        Experiment(name, "rpcs", arguments, rounds, with_bare=True)
        for name, arguments in beside.items()
    ]


def _starts(*, quick: bool) -> list[Experiment]:
    return [
        Experiment(
            f"start-{number}", "start", {"publications": number}, [{}] * (5 if quick else 20)
        )
        for number in (0, 1_000)
    ]


def _seamless(*, quick: bool, seed: int) -> list[Experiment]:
    crashes = _crashes(f"{seed} seamless", 5 if quick else 30, rest_s=1.0)
    return [
        Experiment("seamless-100", "seamless", {"readers": 100}, crashes, is_ours_alone=True),
        Experiment(
            "seamless-ten",
            "seamless",
            {"readers": 100, "datasets": 10},
            crashes[: 2 if quick else 5],
            is_ours_alone=True,
        ),
        *(
            Experiment(
                f"seamless-on{readers}",
                "readon",
                {"readers": readers},
                [{}] * 10,
                is_ours_alone=True,
            )
            for readers in (1, 4)
        ),
    ]


def _idles(*, quick: bool) -> list[Experiment]:
    # Whole periods, or a window would catch one tick more or less than its share.
    window_s = _PERIOD_S if quick else 6 * _PERIOD_S
    rounds = [{"settle_s": _PERIOD_S, "window_s": window_s}] * (1 if quick else 2)
    return [
        Experiment(f"idle-{number}", "idle", {"publications": number}, rounds, budget_s=300.0)
        for number in (0, 100, 1_000)
    ]
