"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says how busy the machine is: benchmarks measure speed.
settings.register_profile("extproc", deadline=None)
settings.load_profile("extproc")
