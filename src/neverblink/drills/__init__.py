"""Fault drills: real parts are broken on purpose, and what happens is measured. Dev extra only; `neverblink drill`."""

from neverblink.registry import Registry

# row -> a `Drill`; the rows are those of results/hardening.md
drills = Registry(
    "drill",
    {
        "R8": "neverblink.drills.engine:R8",
        "R9": "neverblink.drills.engine:R9",
        "R11": "neverblink.drills.engine:R11",
        "R12": "neverblink.drills.loops:R12",
        "R12b": "neverblink.drills.loops:R12B",
        "R18": "neverblink.drills.engine:R18",
    },
)
