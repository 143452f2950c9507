"""neverblink: watch video that never ends with a vision-language model.

Names are imported at their first use, so that `neverblink --help` needs neither torch nor a codec.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Model": "neverblink.model",
    "Stream": "neverblink.stream",
    "StreamOptions": "neverblink.options",
    "SpeakOptions": "neverblink.decoding.speak",
    "Script": "neverblink.script",
    "ScriptOptions": "neverblink.script",
    "Frame": "neverblink.types",
    "Chunk": "neverblink.types",
    "Caption": "neverblink.types",
    "Event": "neverblink.types",
    "NeverblinkError": "neverblink.errors",
    "open_source": "neverblink.sources",
    "SourceOptions": "neverblink.sources.base",
}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'neverblink' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
