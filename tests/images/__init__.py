"""Container images, written as OCI archives without a container engine.

``python -m tests.images product`` makes build/csi-fluid.oci.tar; the others are for the cluster.
"""
