"""Every call that the plugin may make to the API server, as data: what RBAC must allow.

Who calls: a Node is read and labelled with kubelet's own credential where there is one, which may
touch its own node alone (Node authorizer, NodeRestriction); all else, events above all, is the
ServiceAccount's.  A kubelet may also list the pods of its node, which the ServiceAccount need not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

FLUID = "data.fluid.io"
FLUID_API = f"/apis/{FLUID}/v1alpha1"

RUNTIMES: Mapping[str, str] = {
    kind: f"{kind}runtimes"
    for kind in ("alluxio", "cache", "efc", "jindo", "juicefs", "thin", "vineyard")
}
"""The resource of each type of runtime that a Dataset's status can name."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of RBAC: verbs on resources of an API group ("" for the core).

    names: on the objects of these names alone; empty: on all.
    """

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()


ACCOUNT: tuple[Rule, ...] = (
    Rule("", ("persistentvolumes", "persistentvolumeclaims"), ("get",)),
    Rule(FLUID, ("datasets", *RUNTIMES.values()), ("get",)),
    Rule("", ("events",), ("create", "patch")),
)
"""What the ServiceAccount needs."""

NODE: tuple[Rule, ...] = (Rule("", ("nodes",), ("get", "patch")),)
"""What kubelet's credential is used for; the ServiceAccount needs it with --kube=account."""

NODE_EXTRA: tuple[Rule, ...] = (Rule("", ("pods",), ("list",)),)
"""What is asked of kubelet's credential alone: names of pods whose volumes another plugin made."""

RESET_BACKOFF: tuple[Rule, ...] = (Rule("", ("pods",), ("list", "delete")),)
"""What the ServiceAccount needs besides for --reset-backoff."""

WEBHOOK_SECRET = Rule("", ("secrets",), ("get", "update"), ("csi-fluid-webhook-certificates",))
"""What the webhook's ServiceAccount needs in its own namespace: the Secret of its authority."""

WEBHOOK_TRUST = Rule(
    "admissionregistration.k8s.io",
    ("mutatingwebhookconfigurations",),
    ("get", "patch"),
    ("csi-fluid-recovery-webhook",),
)
"""What it needs of the cluster: the configuration that names the authority."""
