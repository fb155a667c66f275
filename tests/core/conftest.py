"""Settings of the property tests."""

from hypothesis import settings

# A deadline for each example would be an assertion of speed.
settings.register_profile("perdure", deadline=None)
settings.load_profile("perdure")
