"""What Fluid's runtimes have in common and what tells them apart, as far as a node sees it."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """One kind of runtime.

    leaf: the name of the FUSE mount in its directory. mount_type: what the PV says of it.
    engine: the name in role labels. inside: where the client's container has the directory.
    mounts_leaf: the client's container has the FUSE mount's own directory, not the one around it.
    has_generation: its engine counts the changes of the client, which OnFuseChanged needs.
    """

    resource: str  # the object's kind
    type: str  # in Dataset.status.runtimes and in paths
    engine: str
    leaf: str
    mount_type: str
    inside: str | None = None  # None: under the path that the node has
    mounts_leaf: bool = False
    has_generation: bool = False

    @property
    def plural(self) -> str:
        """Return the resource's name in the API."""
        return f"{self.resource.lower()}s"

    def directory(self, root: str, namespace: str, name: str) -> str:
        """Return the directory on the node that the client mounts in."""
        return f"{root}/{self.type}/{namespace}/{name}"

    def fluid_path(self, root: str, namespace: str, name: str) -> str:
        """Return the FUSE mount on the node."""
        return f"{self.directory(root, namespace, name)}/{self.leaf}"

    def daemonset(self, name: str) -> str:
        """Return the name of the DaemonSet of a dataset."""
        return f"{name}-{_DAEMONSETS.get(self.type, 'fuse')}"


_DAEMONSETS = {"jindo": "jindofs-fuse", "cache": "client"}
KINDS = {
    kind.type: kind
    for kind in (
        Kind("JindoRuntime", "jindo", "jindofs", "jindofs-fuse", "jindo", "/jfs"),
        Kind("AlluxioRuntime", "alluxio", "alluxio", "alluxio-fuse", "fuse.alluxio-fuse"),
        Kind(
            "JuiceFSRuntime", "juicefs", "juicefs", "juicefs-fuse", "JuiceFS", has_generation=True
        ),
        Kind("ThinRuntime", "thin", "thin", "thin-fuse", "fuse"),
        Kind("EFCRuntime", "efc", "efc", "efc-fuse", "alifuse.aliyun-alinas-efc", "/efc"),
        Kind("VineyardRuntime", "vineyard", "vineyard", "vineyard-fuse", "vineyard-fuse"),
        Kind(
            "CacheRuntime",
            "cache",
            "cache",
            "cache-fuse",
            "cache",
            mounts_leaf=True,
            has_generation=True,
        ),
    )
}
