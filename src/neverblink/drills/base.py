"""The contract of a drill, and what every drill needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neverblink.drills.rows import ROWS


@dataclass(frozen=True, slots=True)
class Finding:
    """What a drill measured."""

    figure: str  # what the table shows: "restart to caption p95 1.4 s (50 kills)"
    held: bool  # did it reach its figure?
    measured: Mapping[str, float | int | str] = field(default_factory=dict)  # every number behind it


@dataclass(frozen=True, slots=True)
class Drill:
    """One row of the table of faults.

    Args:
        row: "R1" to "R19", "S1" to "S12".
        fault: what is done, in one line.
        peers: what others do, "-" where nothing is known.
        beat: the figure to reach.
        run: (folder of its own to write in, scale) -> what was measured. Scale 1 is the published drill; a test runs
            it much smaller. It raises only where the drill itself could not be held.
    """

    row: str
    fault: str
    peers: str
    beat: str
    run: Callable[[Path, float], Finding]


def drill_of(row: str, run: Callable[[Path, float], Finding], fault: str = "", beat: str = "") -> Drill:
    """A drill in its row's own words; `fault` and `beat` where it is only a part of the row's."""
    about = ROWS[row]
    return Drill(row, fault or about.fault, about.peers, beat or about.beat, run)


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share * 100)) if values else float("nan")
