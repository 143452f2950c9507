"""Fault drills: real parts are broken on purpose, and what happens is measured. Dev extra only; `neverblink drill`."""

from neverblink.registry import Registry

# row -> a `Drill`; the rows are those of results/hardening.md
drills = Registry(
    "drill",
    {
        "R13": "neverblink.drills.server:R13",
        "R13b": "neverblink.drills.server:R13b",
        "R16": "neverblink.drills.server:R16",
        "R16b": "neverblink.drills.server:R16b",
        "R19": "neverblink.drills.server:R19",
        "R1": "neverblink.drills.sources:R1",
        "R2": "neverblink.drills.sources:R2",
        "R3": "neverblink.drills.sources:R3",
        "R4": "neverblink.drills.sources:R4",
        "R5": "neverblink.drills.sources:R5",
        "R6": "neverblink.drills.changes:R6",
        "R7": "neverblink.drills.changes:R7",
        "R17": "neverblink.drills.changes:R17",
        "S1": "neverblink.drills.refusals:S1",
        "S2": "neverblink.drills.refusals:S2",
        "S3": "neverblink.drills.refusals:S3",
        "S4": "neverblink.drills.refusals:S4",
    },
)
