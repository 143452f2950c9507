"""How hard property tests try: the same examples on every run, or with NEVERBLINK_FUZZ=TIMES that many times as many
random ones (scripts/fuzz). A verdict on a commit must not hang on luck, and luck is still worth looking for."""

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("NEVERBLINK_FUZZ", "0"))


def tries(examples: int) -> settings:
    """Settings for a property test that tries `examples` examples, as long as each takes."""
    return settings(
        max_examples=examples * max(1, TIMES),
        derandomize=not TIMES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


settings.register_profile("neverblink", tries(100))
settings.load_profile("neverblink")
