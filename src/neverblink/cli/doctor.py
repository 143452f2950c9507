"""`neverblink doctor`: what was found on this machine, and what was chosen because of it."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

VIDEO_CODECS = {"h264": "h264", "hevc": "hevc", "vp9": "vp9", "av1": "libdav1d"}  # codec -> FFmpeg decoder
EXTRAS = {
    "arcade": ("ale_py", "arcade games as a source"),
    "screen": ("mss", "the screen as a source"),
    "server": ("fastapi", "the HTTP server"),
    "train": ("tokenizers", "training"),
    "bench": ("matplotlib", "plots of the benchmark"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    found: str
    why: str = ""
    ok: bool = True


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Say what was found on this machine, what was chosen, and why."""
    findings = examine()
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2))
        return
    wide = max(len(finding.what) for finding in findings)
    if not sys.stdout.isatty():
        for finding in findings:
            print(f"{finding.what:<{wide}}  {'ok' if finding.ok else '--'}  {finding.found}  {finding.why}".rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("what", "", "found", "why", box=None)
    for finding in findings:
        mark = Text("✓", style="green") if finding.ok else Text("–", style="yellow")
        table.add_row(Text(finding.what, style="bold"), mark, Text(finding.found), Text(finding.why, style="dim"))
    Console().print(table)


def examine() -> list[Finding]:
    """Every finding; a part that cannot be examined says so and hides no other."""
    findings: list[Finding] = []
    parts: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("system", _system),
        ("torch", _torch),
        ("model", _model),
        ("video", _video),
        ("sandbox", _sandbox),
        ("extras", _extras),
    ]
    for name, part in parts:
        try:
            findings += part()
        except Exception as error:  # a broken torch or codec is exactly what a doctor is called for
            findings.append(
                Finding(name, "broken", f"{type(error).__name__}: {' '.join(str(error).split())}", ok=False)
            )
    return findings


def _system() -> list[Finding]:
    from neverblink import __version__

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Finding("neverblink", __version__, str(Path(__file__).parents[1])),
        Finding("python", platform.python_version(), sys.executable),
        Finding("system", f"{platform.system()} {platform.machine()}"),
        Finding("cpu cores", str(cores), f"of {os.cpu_count()}; what this process may use"),
    ]


def _torch() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} device(s)"
    elif torch.version.cuda:
        built = f"built for CUDA {torch.version.cuda}, but no CUDA device answers"
    else:
        built = "built without CUDA"
    return [
        Finding("torch", torch.__version__, built),
        Finding("torch threads", str(torch.get_num_threads()), "change with --threads"),
        Finding("transformers", version("transformers")),
    ]


def _model() -> list[Finding]:
    from neverblink.models.bundled import BUNDLED, read_card
    from neverblink.models.choices import choose_attention, choose_device, choose_dtype

    findings = [Finding(*chosen) for chosen in (choose_device(None), choose_dtype(None), choose_attention(None))]
    size = sum(path.stat().st_size for path in BUNDLED.glob("*.safetensors")) / 1e6
    if not size:
        return [*findings, Finding("bundled model", "absent", f"no weights in {BUNDLED}; use --model", ok=False)]
    card = read_card(BUNDLED)
    about = f"{size:.0f} MB" if card.domain is None else f"{size:.0f} MB; knows {card.domain}"
    return [*findings, Finding("bundled model", card.name or "present", about)]


def _video() -> list[Finding]:
    import av

    libraries = getattr(av, "ffmpeg_version_info", "")
    avcodec = ".".join(str(part) for part in av.library_versions.get("libavcodec", ()))
    findings = [Finding("PyAV", av.__version__, f"FFmpeg {libraries}, libavcodec {avcodec}".replace("FFmpeg ,", ""))]
    for codec, decoder in VIDEO_CODECS.items():
        present = decoder in av.codecs_available or codec in av.codecs_available
        findings.append(Finding(f"decode {codec}", "yes" if present else "no", "in PyAV's own FFmpeg", ok=present))
    return findings


WALLS = {  # wall of the decoder child -> what it is called, what it does
    "limits": ("decoder limits", "memory, CPU without a picture, open files, no writing"),
    "files": ("decoder files", "Landlock: it can read its one file, and no other data"),
    "addresses": ("decoder addresses", "Landlock: it can connect to our own relay, and to no other port"),
    "calls": ("system-call filter", "seccomp: no programs, no processes, no listening, no change of files"),
}


def _sandbox() -> list[Finding]:
    from neverblink.sources.rules import MAX_DATA_BYTES, MAX_DECODED_PIXELS
    from neverblink.sources.sandbox import standing_walls

    limits = f"{MAX_DATA_BYTES >> 20} MB of memory, frames up to {MAX_DECODED_PIXELS / 1e6:.1f} MP"
    standing = standing_walls()  # built and looked at in a process of its own
    return [
        Finding("decoder child", "yes", limits),
        *(
            Finding(name, "yes", what)
            if wall in standing
            else Finding(name, "no", f"{platform.system()} {platform.release()} has none; elsewhere: {what}", ok=False)
            for wall, (name, what) in WALLS.items()
        ),
    ]


def _extras() -> list[Finding]:
    findings = []
    for extra, (module, purpose) in EXTRAS.items():
        if find_spec(module) is None:
            how = f"{purpose}; install with: pip install 'neverblink[{extra}]'"
            findings.append(Finding(f"extra {extra}", "absent", how, ok=False))
        else:
            findings.append(Finding(f"extra {extra}", _version_of(module), purpose))
    return findings


def _version_of(module: str) -> str:
    try:
        return f"{module.replace('_', '-')} {version(module.replace('_', '-'))}"
    except PackageNotFoundError:
        return "present"
