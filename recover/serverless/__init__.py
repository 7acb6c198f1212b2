"""Serverless pods: the agent beside a FUSE sidecar, and the node plugin in its place."""
