"""Fault drills: real parts are broken on purpose, and what happens is measured. Dev extra only; `neverblink drill`."""

from neverblink.registry import Registry

# row -> a `Drill`; the rows are those of results/hardening.md
drills = Registry(
    "drill",
    {
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
