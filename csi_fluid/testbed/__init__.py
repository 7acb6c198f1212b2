"""A node without Kubernetes and without a container runtime, for the demonstration and for tests.

Pods are processes with namespaces and a root of their own (`pods`, `serverless`), FUSE daemons are
programs that no one here wrote (`filesystems`, `daemons`), the plugin is the real one (`plugin`).
"""
