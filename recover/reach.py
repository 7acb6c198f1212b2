"""What a mount on the node reaches: pure functions over peer groups (mount_namespaces(7)).

A mount that is mounted on another one's root arrives at each mount that is its peer or slave and
has the same root.  A bind of a sub-directory is a peer with another root: it does not arrive there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from recover.anchors.anchor import Anchor
from recover.detect import Copy
from recover.linux.mountinfo import Mount

_RESTRICTIONS = frozenset({"ro", "nosuid", "nodev", "noexec", "idmapped"})

Group = tuple[int, str]  # a peer group, and the root that its mounts have


@dataclass(frozen=True, slots=True)
class Reach:
    """Groups on which a live mount will be mounted, with the flags that arrive by each."""

    flags: Mapping[Group, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, anchors: Iterable[Anchor], copies: Iterable[Copy]) -> "Reach":
        """Return what anchors reach, and through the copies on the node that hang off them."""
        bases = (a.base for a in anchors if a.base.shared)  # one that was made private has no group
        flags = {(base.shared, base.root): base.options for base in bases}
        # what hangs off an upper layer is handed on to its master when that is detached
        layers = [mount for copy in copies for mount in copy.stack if mount.shared]
        while new := {
            (layer.shared, layer.root): flags[layer.master, layer.root]
            for layer in layers
            if (layer.master, layer.root) in flags and (layer.shared, layer.root) not in flags
        }:
            flags |= new
        return cls(flags)

    def and_at(self, copies: Iterable[Copy]) -> "Reach":
        """Return this, and what is reached from copies that get a mount of their own."""
        own = {(c.stack[0].shared, c.stack[0].root): c.stack[0].options for c in copies}
        return Reach({**self.flags, **{group: f for group, f in own.items() if group[0]}})

    def has(self, copy: Copy) -> bool:
        """Tell whether a copy will get the live mount without being touched."""
        return any(group in self.flags for group in _groups(copy.stack[0]))

    def weakens(self, copy: Copy) -> bool:
        """Tell whether what arrives at a copy has fewer restrictions than it has now."""
        base = copy.stack[0]
        arriving = [self.flags[group] for group in _groups(base) if group in self.flags]
        return any(base.options & _RESTRICTIONS - flags for flags in arriving)


def _groups(mount: Mount) -> tuple[Group, ...]:
    return tuple((group, mount.root) for group in (mount.master, mount.shared) if group)
