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
    },
)
