"""The CSI services on a socket: requests checked, work handed to volumes, errors told."""
