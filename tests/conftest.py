from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "winnow", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("winnow")
