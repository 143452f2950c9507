"""The options as pydantic-settings: NEVERBLINK_<OPTION> in the environment fills what the command line left out."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import ValidationError, create_model
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from neverblink.cli.options import WatchOptions
from neverblink.errors import ConfigError

_TYPES = get_type_hints(WatchOptions)


class _Base(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="NEVERBLINK_", extra="forbid")


_fields: dict[str, Any] = {field.name: (_TYPES[field.name], field.default) for field in fields(WatchOptions)}
Settings: type[BaseSettings] = create_model("Settings", __base__=_Base, **_fields)


def load(given: dict[str, Any]) -> WatchOptions:
    """Command line before environment before default; raises ConfigError in one line."""
    try:
        options = WatchOptions(**Settings(**given).model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"][:1])
        where = f"--{name.replace('_', '-')}" if name in given else f"NEVERBLINK_{name.upper()}"
        raise ConfigError(f"{where} is {first['input']!r}: {first['msg'].lower()}") from error
    except SettingsError as error:  # of what stands for a list
        raise ConfigError("NEVERBLINK_ASK is no JSON list of texts; write it as '[\"12.5:What is it?\"]'") from error
    options.check()
    return options
