"""What API servers trust: the caBundle of our MutatingWebhookConfiguration."""

import base64
from dataclasses import dataclass

from csi_fluid.errors import NotFound
from csi_fluid.kube import cluster, objects
from csi_fluid.kube.cluster import Api
from csi_fluid.kube.wire import STRATEGIC, Request

_KIND = "MutatingWebhookConfiguration"
_PATH = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


@dataclass(frozen=True, slots=True)
class Trusted:
    """The bundle of each webhook of the configuration, and the version that was read."""

    version: str
    bundles: tuple[tuple[str, str], ...]  # (name of the webhook, caBundle in base64)

    def lacks(self, bundle: str) -> bool:
        """Return whether some webhook trusts something else than a bundle in PEM."""
        wanted = _encoded(bundle)
        return any(found != wanted for _, found in self.bundles)


class Trust:
    """Reads and writes the caBundle of one configuration."""

    def __init__(self, api: Api, name: str) -> None:
        self._api = api
        self._name = name
        self._path = f"{_PATH}/{cluster.place(name)}"

    def read(self, until: float) -> Trusted:
        """Return what is trusted now; raises Unavailable or NotFound."""
        found = cluster.get(self._api, self._path, _KIND, until)
        if found is None:
            raise NotFound(
                f"there is no {_KIND} {self._name}, so no API server asks; "
                "apply manifests/serverless"
            )
        bundles = (
            (objects.text(hook, "name"), objects.text(hook, "clientConfig", "caBundle"))
            for hook in objects.items(found, "webhooks")
        )
        return Trusted(objects.text(found, "metadata", "resourceVersion"), tuple(bundles))

    def write(self, before: Trusted, bundle: str, until: float) -> None:
        """Put a bundle in the place of what was read; raises Unavailable, also if it changed."""
        body = {
            "metadata": {"resourceVersion": before.version},
            "webhooks": [
                {"name": name, "clientConfig": {"caBundle": _encoded(bundle)}}
                for name, _ in before.bundles
            ],
        }
        request = Request("account", "PATCH", self._path, body, STRATEGIC)
        answer = self._api.ask(request, until)
        if not cluster.succeeded(answer):
            raise cluster.refusal(request, answer)


def _encoded(bundle: str) -> str:
    return base64.b64encode(bundle.encode()).decode()
