"""The command line of one node: `csi-fluid`, its verbs, and what they share."""

from csi_fluid.cli.program import Program

VERBS = {
    "start": "publish the volumes of this node and heal them",
    "status": "show what is published, and what is broken",
    "doctor": "check whether this machine has what the plugin needs",
    "recover": "heal broken volumes now, or say what would be done",
    "agent": "heal the FUSE mounts of one serverless pod, from a container in it",
    "webhook": "give serverless pods that ask for recovery their agent, as an admission webhook",
    "demo": "watch a FUSE daemon die and its volume heal, on this machine",
    "trial": "publish a small volume with this node's plugin, crash its daemon, see it heal",
    "version": "print the version",
}

main = Program(
    "csi-fluid",
    "CSI node plugin for Fluid that heals broken FUSE volumes",
    VERBS,
    "csi_fluid.cli",
).main
