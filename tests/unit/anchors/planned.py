"""What is planned for a node, by kind of step."""

from typing import TypeVar

from recover.anchors import plan
from recover.anchors.plan import Case, Make, Origins, Step
from recover.anchors.shelf import Variant

S = TypeVar("S", bound=Step)

LIVING = "0:55"  # an older generation whose daemon still serves


def planned(case: Case) -> tuple[Step, ...]:
    return plan.steps(case, Origins(case))


def of(kind: type[S], case: Case) -> list[S]:
    return [step for step in planned(case) if isinstance(step, kind)]


def only(kind: type[S], case: Case) -> S:
    (step,) = of(kind, case)
    return step


def made(case: Case) -> set[Variant]:
    return {step.variant for step in of(Make, case)}
