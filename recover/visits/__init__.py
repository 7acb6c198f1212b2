"""The supplement: copies that no mount on the node reaches, swapped inside their namespaces."""
