"""For every test: one torch thread (toy models are slower on more), and no settings from the outside."""

import os

import pytest
import torch

import tests.properties  # noqa: F401 - loads the profile of the property tests

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    # NEVERBLINK_TRACES and NEVERBLINK_DEMO_* steer tests and scripts; the rest would change defaults under test.
    for name in os.environ:
        if name.startswith("NEVERBLINK_") and name not in ("NEVERBLINK_TRACES",):
            monkeypatch.delenv(name)
