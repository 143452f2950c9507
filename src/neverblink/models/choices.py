"""Which checkpoint, on which device, in which dtype, with which attention: every choice with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from neverblink.errors import ConfigError, ModelError
from neverblink.models.bundled import BUNDLED

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "int8": torch.int8,
}


def find(name: str | os.PathLike[str], revision: str | None = None) -> tuple[Path, str]:
    """The local folder of a model and the name to show; downloads from the hub when it is a hub id.

    Raises:
        ModelError: nothing there; says what was tried.
    """
    shown = os.fspath(name)
    if shown == "bundled":
        if not (BUNDLED / "config.json").is_file():
            raise ModelError(
                f"this installation has no bundled model ({BUNDLED}); name one with --model PATH_OR_HUB_ID"
            )
        return BUNDLED, "neverblink-arcade"
    if Path(shown).is_dir():
        return Path(shown), Path(shown).resolve().name
    if shown.startswith((".", "/", "~")) or shown.count("/") != 1:
        raise ModelError(f"no model at {shown!r}; give a folder that exists, a hub id like OWNER/NAME, or 'bundled'")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(shown, revision=revision, allow_patterns=patterns)), shown
    except Exception as error:  # the hub client raises its own and its HTTP library's errors; all end here as one line
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot fetch {shown!r} from the hub ({reason}); name a local folder instead") from error


def choose_device(asked: str | None) -> tuple[str, str, str]:
    """("device", choice, reason)."""
    if asked is not None:
        kind = asked.split(":")[0]
        if kind == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device {asked!r} was asked for and torch {torch.__version__} finds no CUDA; use cpu")
        return "device", asked, "asked for"
    if torch.cuda.is_available():
        return "device", "cuda", f"found {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "device", "mps", "found Apple's GPU"
    return "device", "cpu", "no CUDA or MPS device found"


def choose_dtype(asked: str | torch.dtype | None, device: str | None = None) -> tuple[str, str, str]:
    """("dtype", choice, reason)."""
    if asked is not None:
        wanted = str(asked).removeprefix("torch.")
        if wanted not in DTYPES:
            raise ConfigError(f"no dtype {wanted!r}; known: {', '.join(DTYPES)}")
        where = choose_device(device)[1]
        if wanted == "int8" and where.split(":")[0] != "cpu":
            raise ConfigError(f"dtype int8 is for a CPU and the device is {where}; use bfloat16 there")
        return "dtype", wanted, "asked for"
    if choose_device(device)[1] == "cpu":
        return "dtype", "float32", "on a CPU bfloat16 decodes slower than float32"
    return "dtype", "bfloat16", "half the memory traffic of float32 on a GPU"


def choose_attention(asked: str | None) -> tuple[str, str, str]:
    """("attention", choice, reason)."""
    known = ("sdpa", "eager", "flash_attention_2")
    if asked is not None and asked not in known:
        raise ConfigError(f"no attention {asked!r}; known: {', '.join(known)}")
    if asked is not None:
        return "attention", asked, "asked for"
    return "attention", "sdpa", "torch's own fused attention, on every device"
