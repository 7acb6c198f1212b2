"""What a caller must be allowed, as data, and what to say to one who is not."""

from dataclasses import dataclass

from csi_fluid.cli import usage
from csi_fluid.kube.calls import FLUID, RUNTIMES, Rule

PLUGINS: tuple[Rule, ...] = (
    Rule("", ("pods",), ("list",)),
    Rule("", ("pods/exec",), ("get", "create")),
    Rule("", ("pods/log",), ("get",)),
)
"""In the plugin's namespace: find the plugins and ask them (`status`, `doctor`)."""

CLUSTER: tuple[Rule, ...] = (
    Rule("", ("nodes", "pods", "persistentvolumes"), ("get", "list")),
    Rule("", ("persistentvolumeclaims", "events"), ("get", "list")),
    Rule("", ("pods/log",), ("get",)),
    Rule("apps", ("daemonsets",), ("list",)),
    Rule("storage.k8s.io", ("csidrivers", "csinodes"), ("get", "list")),
    Rule("admissionregistration.k8s.io", ("mutatingwebhookconfigurations",), ("get",)),
    Rule(FLUID, ("datasets", *RUNTIMES.values()), ("get", "list")),
)
"""In the whole cluster: what `doctor`, `explain` and `bundle` add.  Without it they tell less."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One right: a verb on a resource ("pods/exec", "datasets.data.fluid.io") in a namespace."""

    verb: str
    resource: str
    namespace: str = ""


class Denied(usage.Failure):
    """The caller may not do what a command needs; the message has the rule that would allow it."""

    def __init__(self, wanted: Wanted) -> None:
        resource, _, group = wanted.resource.partition(".")
        where = f" in namespace {wanted.namespace}" if wanted.namespace else ""
        kind = "Role" if wanted.namespace else "ClusterRole"
        super().__init__(
            f"you may not {wanted.verb} {wanted.resource}{where}; a {kind} with this rule, bound "
            f'to you, allows it: {{apiGroups: ["{group}"], resources: [{resource}], '
            f"verbs: [{wanted.verb}]}}"
        )
