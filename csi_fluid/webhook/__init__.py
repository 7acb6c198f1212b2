"""The admission webhook: gives pods that ask for recovery of their FUSE sidecars an agent.

A pod is seen more than once.  First it carries the label of a serverless platform, which becomes
Fluid's own, so that Fluid's webhook adds the FUSE sidecars; because that changes the pod, the API
server asks again (reinvocationPolicy), and the agent is put beside the sidecars.  Each answer is
computed from the pod alone, so a repeated question, a dry run and a second replica change nothing.
"""

from csi_fluid import driver

POLICY = driver.RECOVER_POLICY
PLATFORM_POLICY = "alibabacloud.com/fuse-recover-policy"
"""The annotations that ask for recovery: auto or off.  Where both are given ours decides."""

WRITABLE = driver.RECOVER_WRITABLE
"""The annotation that, as "true", has volumes healed that can be written to as well."""

PLATFORM_LABEL = "alibabacloud.com/fluid-sidecar-target"
PLATFORM_TARGET = "eci"
INJECT_LABEL = "serverless.fluid.io/inject"
"""The platform's way to ask for FUSE sidecars, and Fluid's."""

AGENT = "fluid-fuse-recovery"
"""The agent's container.

Fluid's controllers take what begins with fluid-fuse for a part of the FUSE side: they do not wait
for it when the application of a Job has ended, and run its preStop hook then.
"""

NAMESPACE = "fluid-system"
SERVICE = "csi-fluid-webhook"
SECRET = "csi-fluid-webhook-certificates"  # noqa: S105  a name
CONFIGURATION = "csi-fluid-recovery-webhook"
"""Where the manifests put the webhook.

The configuration's name sorts before Fluid's: API servers ask in the order of the names, and Fluid
must be asked after the label for it was set.
"""
