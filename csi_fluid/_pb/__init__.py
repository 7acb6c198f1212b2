"""Generated from proto/csi.proto by ``make proto``; never edited."""
