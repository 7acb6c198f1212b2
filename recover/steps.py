"""What is to be done about a source as it was seen: on the node first, then inside namespaces."""

import itertools
from collections.abc import Iterator

from recover.anchors import plan as node
from recover.anchors.plan import Skip
from recover.look import Looker, View
from recover.visits import plan as visits

Act = node.Act | visits.Act
Step = Act | Skip


def steps(looker: Looker, view: View) -> tuple[Step, ...]:
    """Return all steps in their order."""
    return tuple(itertools.chain.from_iterable(stages(looker, view)))


def stages(looker: Looker, view: View) -> Iterator[tuple[Step, ...]]:
    """Yield the steps in two stages; the second is planned when it is asked for.

    The node's anchors come first, and with them every copy that hangs off one.  What may go of them
    goes last.  Copies that hang off none come then, with anchors that are made for them alone.
    """
    case = looker.case(view)
    origins = node.Origins(case.node)
    if view.is_sidecar:  # its pod's containers show the source itself
        yield visits.steps(case, origins)
        return
    yield node.steps(case.node, origins)
    made = frozenset(origins.variants)
    inside = visits.steps(case, origins)
    yield (*node.makes(case.node, origins, but=made), *inside)


def where(step: Step) -> str:
    """Name the place of a step."""
    return f"{step.path} in {step.namespace}"
