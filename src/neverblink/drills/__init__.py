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
        "R8": "neverblink.drills.engine:R8",
        "R9": "neverblink.drills.engine:R9",
        "R9b": "neverblink.drills.soak:R9B",
        "R11": "neverblink.drills.engine:R11",
        "R12": "neverblink.drills.loops:R12",
        "R12b": "neverblink.drills.loops:R12B",
        "R14": "neverblink.drills.outputs:R14",
        "R14b": "neverblink.drills.outputs:R14B",
        "R14c": "neverblink.drills.outputs:R14C",
        "R14d": "neverblink.drills.outputs:R14D",
        "R15": "neverblink.drills.faults:R15",
        "R15b": "neverblink.drills.faults:R15B",
        "R15c": "neverblink.drills.faults:R15C",
        "R18": "neverblink.drills.engine:R18",
        "S10": "neverblink.drills.hostile:S10",
        "S11": "neverblink.drills.hostile:S11",
    },
)
