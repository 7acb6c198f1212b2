"""Other kernels: this checkout, run as root in a virtual machine on this machine's own files."""
