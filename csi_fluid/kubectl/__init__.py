"""`kubectl csi-fluid`: the whole cluster at once, for the people who run it.

Runs beside kubectl on anybody's machine, with the caller's own kubeconfig and rights, and changes
nothing.  What a node knows is asked of its plugin (`kubectl exec`), of many nodes at a time; a
node that does not answer is a row of the table like any other.

    api                  the API server; the only module that talks to it, or to a container
    rights               what a caller must be allowed
    fleet, plugins       ask many at once; the plugin of each node
    datasets, agents     what they tell, as rows; journal: the log that an agent tells it in
    findings, story      what is found on the nodes; what became of one pod
    gather, redact       what goes into a bundle, and what never does
    options              what every verb takes
    status, doctor, explain, bundle     the verbs
"""

from csi_fluid.cli.program import Program

VERBS = {
    "status": "show every dataset on every node, what needs a person first",
    "doctor": "show what the nodes and the cluster lack, and what follows",
    "explain": "tell the story of one pod's volumes, and what to do",
    "bundle": "write what support needs into one file, without secrets",
}

NAME = "kubectl csi-fluid"

main = Program(
    NAME, "the datasets of a whole cluster, and how they heal", VERBS, "csi_fluid.kubectl"
).main
