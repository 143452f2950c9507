"""For every test: one torch thread (toys are slower on more), no settings from outside, nothing left behind."""

import os
import tempfile

import pytest
import torch

import tests.properties  # noqa: F401 - loads the profile of the property tests

torch.set_num_threads(1)

# Toy checkpoints and the files of fuzzed examples outlive their test, but not the run. What pytest itself keeps of the
# last runs, to be looked at, stays where it is.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
_scratch = tempfile.TemporaryDirectory(prefix="neverblink-tests-", ignore_cleanup_errors=True)
tempfile.tempdir = os.environ["TMPDIR"] = _scratch.name


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    # NEVERBLINK_TRACES and NEVERBLINK_DEMO_* steer tests and scripts; the rest would change defaults under test.
    for name in os.environ:
        if name.startswith("NEVERBLINK_") and name not in ("NEVERBLINK_TRACES",):
            monkeypatch.delenv(name)
