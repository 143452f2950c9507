"""Every error that neverblink raises for a user to read.

NeverblinkError
├── SourceError            the source cannot be opened, or ended badly
│   ├── SourceRefused      not allowed, or not a video: nothing was decoded
│   └── SourceDamaged      decoded up to a point; `at` says how far (seconds)
├── BudgetError            the KV cache would not fit
├── ModelError             a checkpoint cannot be loaded or is of an unknown family
├── SnapshotError          a snapshot does not belong here, or is damaged
├── UnknownName            no such policy, model family, output ...; lists the known ones
├── ConfigError            options that contradict each other or are out of range
└── MissingExtra           an optional package is needed; says which extra brings it

A message says what went wrong, both values, and the way out, in one line.
"""

from __future__ import annotations


class NeverblinkError(Exception):
    """Root of the tree; the CLI prints its text as one line and exits with status 2."""


class SourceError(NeverblinkError):
    pass


class SourceRefused(SourceError):
    pass


class SourceDamaged(SourceError):
    def __init__(self, message: str, at: float):
        super().__init__(message)
        self.at = at


class BudgetError(NeverblinkError):
    pass


class ModelError(NeverblinkError):
    pass


class SnapshotError(NeverblinkError):
    pass


class UnknownName(NeverblinkError):
    pass


class ConfigError(NeverblinkError):
    pass


class MissingExtra(NeverblinkError):
    def __init__(self, package: str, extra: str, why: str):
        super().__init__(f"{why} needs {package}; install it with: pip install 'neverblink[{extra}]'")
