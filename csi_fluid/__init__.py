"""The CSI node plugin ``fuse.csi.fluid.io``: publishes volumes and keeps them healthy."""

__version__ = "0.1.0"
