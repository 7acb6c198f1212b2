"""The CSI node plugin ``fuse.csi.fluid.io``: publishes volumes and keeps them healthy."""

__version__ = "0.1.0"

DRIVER = "fuse.csi.fluid.io"
"""The name of the driver in Kubernetes, which is that of Fluid's own plugin."""
