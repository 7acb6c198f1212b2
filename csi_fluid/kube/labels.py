"""How Fluid names its node labels: pkg/utils/label.go.  Pure."""

_FUSE = "fluid.io/f-"
_LIMIT = 63  # Fluid counts the prefix in, and wants fewer than this


def is_long(namespace: str, name: str) -> bool:
    """Return whether the label of a dataset's FUSE daemon needs the dataset's UID."""
    return len(f"{_FUSE}{namespace}-{name}") >= _LIMIT


def fuse_label(namespace: str, name: str, uid: str = "") -> str:
    """Return the label that brings a dataset's FUSE daemon to a node; uid is the Dataset's.

    Raises ValueError where the UID is needed and not given: Kubernetes would refuse the long form.
    """
    if not is_long(namespace, name):
        return f"{_FUSE}{namespace}-{name}"
    if not uid:
        raise ValueError(f"the label of {namespace}/{name} is made of its UID, which is not known")
    return f"{_FUSE}{uid}"
