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
        "S6": "neverblink.drills.doors:S6",
        "S7": "neverblink.drills.doors:S7",
        "S8": "neverblink.drills.doors:S8",
        "S9": "neverblink.drills.doors:S9",
        "S11": "neverblink.drills.doors:S11",
        "S12": "neverblink.drills.doors:S12",
    },
)
