"""Many streams on one model: fixed slots, one packed forward, each stream as if it were alone."""

from neverblink.engine.engine import Engine
from neverblink.engine.member import Overload, Result

__all__ = ["Engine", "Overload", "Result"]
