"""Recovery without an error in the application: hold a dead daemon's connection, then serve it."""
