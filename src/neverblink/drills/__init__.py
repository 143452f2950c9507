"""Fault drills: real parts are broken on purpose, and what happens is measured. Dev extra only; `neverblink drill`."""

from neverblink.registry import Registry

# row -> a `Drill`; the rows are those of results/hardening.md
drills = Registry("drill", {})
