"""No example of hypothesis is too slow: other work on the machine makes any of them late."""

from hypothesis import settings

settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
