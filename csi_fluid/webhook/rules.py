"""What becomes of a pod, as a function of its JSON.  Pure.

The rules for each of its FUSE sidecars, and what restarts it, are in `sidecars`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from csi_fluid.webhook import (
    AGENT,
    INJECT_LABEL,
    PLATFORM_LABEL,
    PLATFORM_POLICY,
    PLATFORM_TARGET,
    POLICY,
    WRITABLE,
    container,
    patch,
    pod as pods,
    sidecars,
)
from csi_fluid.webhook.patch import Operation
from csi_fluid.webhook.pod import Pod

Outcome = Literal["unasked", "translated", "awaited", "added", "present", "impossible"]
"""unasked: no recovery is asked for; translated: Fluid is asked for sidecars; awaited: it was;
added: the agent; present: it is there already; impossible: the warnings say why."""

_POLICIES = ("auto", "off")
_INJECTED = "done.sidecar.fluid.io/inject"
_ENABLED = "fluid.io/enable-injection"
_SERVERFUL = "fuse.serverful.fluid.io/inject"
_TRUE = "true"


@dataclass(frozen=True, slots=True)
class Decision:
    """The changes, in order, and what the user is to know."""

    outcome: Outcome
    operations: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()


def decide(found: object, image: str) -> Decision:
    """Decide about a pod; image is the agent's."""
    policy, doubts = _policy(pods.annotations(found))
    if policy != "auto":
        return Decision("unasked", (), doubts)
    decision = _recovery(found, image)
    return Decision(decision.outcome, decision.operations, doubts + decision.warnings)


def _policy(annotations: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return the policy, "" for none, and what is wrong with the annotations."""
    given = {key: annotations[key] for key in (POLICY, PLATFORM_POLICY) if key in annotations}
    doubts = [
        f"annotation {key} is {value[:40]!r}, which is ignored; expected auto or off"
        for key, value in given.items()
        if value not in _POLICIES
    ]
    valid = [value for value in given.values() if value in _POLICIES]
    if len(set(valid)) > 1:
        doubts.append(
            f"the annotations disagree: {POLICY}: {valid[0]} holds, not {PLATFORM_POLICY}"
        )
    return (valid[0] if valid else ""), tuple(doubts)


def _recovery(found: object, image: str) -> Decision:
    """Decide about a pod that asks for recovery."""
    if (size := pods.size(found)) > pods.MAX_SIZE:
        what = "volumes, containers, mounts and variables"
        return _impossible(f"it has {size} {what}, and above {pods.MAX_SIZE} none is looked at")
    pod = pods.read(found)
    return _agent(pod, image) if sidecars.of(pod) else _sidecars(pod)


def _sidecars(pod: Pod) -> Decision:
    """Decide about a pod that has no FUSE sidecar (yet)."""
    if pod.labels.get(_SERVERFUL) == _TRUE:
        return Decision("unasked")  # the node plugin heals it, without an agent
    if reason := _hindrance(pod.labels):
        return _impossible(reason)
    if pod.labels.get(INJECT_LABEL) == _TRUE:
        return Decision("awaited")
    return Decision("translated", (patch.add_label(INJECT_LABEL, _TRUE),))


def _hindrance(labels: Mapping[str, str]) -> str:
    """Say why Fluid will add no FUSE sidecar, "" if it will."""
    if labels.get(_INJECTED) == _TRUE:
        return "Fluid has handled the pod and added no container fluid-fuse-N"
    asks = labels.get(INJECT_LABEL)
    if asks is None and labels.get(PLATFORM_LABEL) != PLATFORM_TARGET:
        said = f"label {PLATFORM_LABEL}: {PLATFORM_TARGET} or {INJECT_LABEL}: {_TRUE}"
        return f"it has no container fluid-fuse-N, and no {said} asks Fluid for one"
    if labels.get(_ENABLED) == "false":
        return f"label {_ENABLED}: false keeps Fluid from adding FUSE sidecars"
    if asks not in {None, _TRUE}:
        return f"label {INJECT_LABEL}: {asks} keeps Fluid from adding FUSE sidecars"
    return ""


def _agent(pod: Pod, image: str) -> Decision:
    """Decide about a pod with FUSE sidecars."""
    if any(each.name == AGENT for each in pod.containers):
        return Decision("present")
    finding = sidecars.find(pod)
    problems = finding.problems
    if container.SCRATCH in pod.volumes:
        problems = (f"it has a volume {container.SCRATCH} of its own; name that otherwise",)
    elif finding.guarded:
        where = container.position(sidecars.of(pod))
        options = ("--recover-writable",) if pod.annotations.get(WRITABLE) == _TRUE else ()
        agent = container.build(image, finding.guarded, where.place, options)
        if pod.has_resources:
            agent = container.without_resources(agent)
        operations = (
            patch.insert(where.place, where.index, agent),
            patch.append("volumes", container.scratch()),
        )
        return Decision("added", operations, tuple(_limit(problem) for problem in problems))
    return Decision("impossible", (), tuple(_cannot(problem) for problem in problems))


def _impossible(reason: str) -> Decision:
    return Decision("impossible", (), (_cannot(reason),))


def _cannot(reason: str) -> str:
    return f"FUSE mounts of this pod will not be recovered: {reason}"


def _limit(reason: str) -> str:
    return f"FUSE recovery is limited: {reason}"
