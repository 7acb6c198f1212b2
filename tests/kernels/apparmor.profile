# What confines here: all is allowed but mounting, as in the profiles of container runtimes.
profile csi-fluid-confined flags=(attach_disconnected,mediate_deleted) {
  capability, dbus, file, network, ptrace, signal, umount, unix,
  deny mount,
}
