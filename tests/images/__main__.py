"""``make image``: write the product's image and tell its size.

With the word "bases" only what takes long to make, and is kept for all checkouts, is made.
"""

import sys

from tests.cluster.settings import ROOT
from tests.images import clients, product


def main() -> int:
    """Write build/csi-fluid.oci.tar, or the bases."""
    if sys.argv[1:] == ["bases"]:
        clients.fuse_base()
        product.bases()
        return 0
    archive = product.build()
    size = archive.stat().st_size / (1 << 20)
    print(f"{archive.relative_to(ROOT)}: {product.NAME}, {size:.0f} MiB compressed")
    print(f"take it with: ctr -n k8s.io images import {archive.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
