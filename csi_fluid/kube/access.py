"""Which credentials there are, and which of them makes a call.

Only paths are here: what the files hold is read by the helper process and never leaves it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Who = Literal["node", "account"]

IN_CLUSTER = "in-cluster"
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105  a path


@dataclass(frozen=True, slots=True)
class Access:
    """Where the credentials are: kubeconfig files, or IN_CLUSTER for the pod's ServiceAccount.

    node makes the calls about this node's Node object, account all others; each stands in for the
    other where that one is "".
    """

    node: str = ""
    account: str = ""

    def __bool__(self) -> bool:
        return bool(self.node or self.account)

    def of(self, who: Who) -> str:
        """Return the credential that makes the calls of a caller."""
        first, second = (self.node, self.account) if who == "node" else (self.account, self.node)
        return first or second

    def described(self) -> str:
        """Say in words how the API server is reached."""
        if not self:
            return "no credential was found"
        node, account = self.of("node"), self.of("account")
        return f"node labels with {_named(node)}; all else with {_named(account)}"


def find(kube: str, kubelet_config: str, kubeconfig: str, token: str = _TOKEN) -> Access:
    """Return the credentials that --kube=auto, account or none may use and that are there."""
    if kube == "none":
        return Access()
    account = kubeconfig or (IN_CLUSTER if Path(token).exists() else "")
    node = kubelet_config if kube == "auto" and Path(kubelet_config).exists() else ""
    return Access(node, account)


def _named(credential: str) -> str:
    return "the ServiceAccount" if credential == IN_CLUSTER else credential
