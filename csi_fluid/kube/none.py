"""Kubernetes where there is none: nothing is looked up, no node is labelled."""

import logging

from csi_fluid.kube import Fuse, Volume

_log = logging.getLogger(__name__)


class NoKube:
    """Stands in for the API server; says once that labels are left out."""

    def __init__(self) -> None:
        self._said = False

    def label_of(self, volume: Volume, until: float) -> str:  # noqa: ARG002  as in kube.Kube
        """Know no volume."""
        return ""

    def fuse_of(self, volume_id: str, until: float) -> Fuse | None:  # noqa: ARG002
        """Know no volume."""
        return None

    def label_node(self, key: str, until: float) -> None:  # noqa: ARG002
        """Label nothing."""
        self._say(key)

    def unlabel_node(self, key: str, until: float) -> None:  # noqa: ARG002
        """Remove no label."""
        self._say(key)

    def _say(self, key: str) -> None:
        if not self._said:
            self._said = True
            _log.info(
                "running without an API server: node labels such as %s are not set; "
                "start the FUSE daemons yourself",
                key,
            )
