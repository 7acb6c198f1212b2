"""AdmissionReview (admission.k8s.io/v1): a question of the API server in, the answer out.

The answer is always that the pod is allowed: recovery must never keep a pod from starting.  What
goes wrong on the way is a warning to whoever makes the pod, and a line of the log.
"""

import base64
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from csi_fluid.kube import objects
from csi_fluid.webhook.rules import Decision

API_VERSION = "admission.k8s.io/v1"
_KIND = "AdmissionReview"
_MAX_WARNING = 256  # the API server cuts longer ones
_MAX_WARNINGS = 4096  # ... and leaves out what is more in all

Decide = Callable[[object], Decision]
"""Decides about the JSON of a pod: `rules.decide` with the agent's image."""

_log = logging.getLogger(__name__)


class Malformed(ValueError):
    """What came is no review that could be answered."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, and what it comes to in one word for the metrics."""

    body: bytes
    result: str


def answer(body: bytes, decide: Decide) -> Response:
    """Answer a review by what is decided about its pod.  Raises Malformed."""
    request = _request(body)
    response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
    try:
        decision = _decision(request, decide)
        result: str = decision.outcome
    except Exception as error:  # noqa: BLE001  whatever it is, the pod is to start
        _log.exception("a pod could not be looked at; it is let through as it is")
        reason = f"FUSE recovery could not look at this pod: {type(error).__name__}; see its log"
        decision, result = Decision("unasked", (), (reason,)), "error"
    if decision.operations:
        text = json.dumps(decision.operations).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(text).decode()}
    if warnings := _warnings(decision.warnings):
        response["warnings"] = warnings
    if result != "unasked":
        _tell(request, result, warnings)
    review = {"apiVersion": API_VERSION, "kind": _KIND, "response": response}
    return Response(json.dumps(review).encode(), result)


def _request(body: bytes) -> Mapping[str, Any]:
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed("the body is no JSON") from error
    request = objects.at(review, "request")
    if objects.text(review, "kind") != _KIND or objects.text(review, "apiVersion") != API_VERSION:
        raise Malformed(f"the body is no {_KIND} of {API_VERSION}")
    if not isinstance(request, Mapping) or not objects.text(request, "uid"):
        raise Malformed("the review has no request.uid")
    return request


def _decision(request: Mapping[str, Any], decide: Decide) -> Decision:
    is_pod = objects.text(request, "resource", "resource") == "pods" and not request.get(
        "subResource"
    )
    if not is_pod or request.get("operation") != "CREATE":
        return Decision("unasked")
    return decide(request.get("object"))


def _warnings(texts: tuple[str, ...]) -> list[str]:
    """Return warnings that the API server passes on: printable, short, not too many."""
    kept: list[str] = []
    room = _MAX_WARNINGS
    for text in texts:
        short = _shortened(text)
        room -= len(short.encode())
        if room < 0:
            break
        kept.append(short)
    return kept


def _shortened(text: str) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in text[: _MAX_WARNING + 1]).encode()
    if len(plain) > _MAX_WARNING:
        plain = plain[: _MAX_WARNING - 3] + b"..."
    return plain.decode("utf-8", "ignore")


def _tell(request: Mapping[str, Any], result: str, warnings: Sequence[str]) -> None:
    pod = request.get("object")
    name = objects.text(pod, "metadata", "name")
    generated = objects.text(pod, "metadata", "generateName")
    namespace = objects.text(request, "namespace")
    _log.info(
        "pod %s",
        result,
        extra={
            "pod": f"{namespace}/{name or generated + '*'}",
            **({"warnings": "; ".join(warnings)} if warnings else {}),
            **({"dry_run": True} if request.get("dryRun") is True else {}),
        },
    )
