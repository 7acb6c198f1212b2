"""The admission webhook of csi-fluid, and what a test needs of serverless pods."""

import functools
from typing import ClassVar

from csi_fluid.webhook import review, rules
from tests.cluster.admission import FluidWebhook
from tests.cluster.cluster import Object
from tests.images import product


class RecoveryWebhook(FluidWebhook):
    """The webhook's decisions, served from here."""

    name = "csi-fluid-recovery"
    _path = "/recover"
    _selector: ClassVar[Object] = {
        "failurePolicy": "Ignore",
        "matchConditions": [
            {
                "name": "asks-for-recovery",
                "expression": "has(object.metadata.annotations) && ("
                "'alibabacloud.com/fuse-recover-policy' in object.metadata.annotations || "
                "'fuse.csi.fluid.io/recover-policy' in object.metadata.annotations)",
            }
        ],
    }

    def answer(self, body: bytes) -> bytes:
        """Return the answer to an AdmissionReview."""
        return review.answer(body, functools.partial(rules.decide, image=product.NAME)).body
