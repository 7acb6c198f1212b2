"""What can be done with a volume on a node, without a word of gRPC or Kubernetes."""
