"""Hypothesis profiles, chosen by S2PT_HYPOTHESIS_PROFILE (or HYPOTHESIS_PROFILE): dev, ci or thorough."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A run builds whole tables, and machines are shared: a time limit would only blame the weather.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

# What `pytest` alone runs, in minutes; what CI and campaigns search further, they search anew each time.
settings.register_profile("dev", patient, max_examples=20, stateful_step_count=20)
settings.register_profile("ci", patient, max_examples=60, stateful_step_count=25, print_blob=True)
settings.register_profile("thorough", patient, max_examples=1000, stateful_step_count=40, print_blob=True)
settings.load_profile(os.environ.get("S2PT_HYPOTHESIS_PROFILE") or os.environ.get("HYPOTHESIS_PROFILE") or "dev")
