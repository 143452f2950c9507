"""The walls around the decode child: little memory, few files, no writing, no new programs, no life of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import subprocess
import sys
import sysconfig
import threading
import time

from neverblink.sources.landlock import confine
from neverblink.sources.syscalls import filter_calls

PR_SET_PDEATHSIG = 1
CPU_SECONDS = 30  # that the child may compute without one decoded picture


def enclose(
    *, max_data_bytes: int, file: str | None = None, device: str | None = None, port: int | None = None
) -> list[str]:
    """Build every wall that this system has; nothing takes one down again.

    Args:
        file: the one file to be read. device: the one camera. port: the one TCP port of this machine to connect to.

    Returns:
        The walls that stand: "limits", "files", "addresses", "calls".
    """
    limit_resources(max_data_bytes=max_data_bytes)
    walls = ["limits"]
    named = tuple(name for name in (file, device) if name)
    walls += confine(files=named, folders=_code_folders(), device=device is not None, port=port)
    if filter_calls(sockets=port is not None, writes=device is not None):
        walls.append("calls")
    return walls


def _code_folders() -> tuple[str, ...]:
    """Where a library may still import a part of itself from: code that everybody has, nobody's data."""
    packages = [sys.modules[name].__file__ for name in ("av", "numpy") if name in sys.modules]
    return (sysconfig.get_path("stdlib"), *(os.path.dirname(path) for path in packages if path))


def limit_resources(*, max_data_bytes: int) -> None:
    """Cap memory and files; what a platform cannot limit stays as it is."""
    for name, limit in {
        "RLIMIT_DATA": max_data_bytes,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 64,
    }.items():
        with contextlib.suppress(ValueError, OSError):  # an administrator may have set a lower hard limit already
            resource.setrlimit(getattr(resource, name), (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    allow_cpu()


def allow_cpu(seconds: float = CPU_SECONDS) -> None:
    """So much more CPU time from now; then the kernel ends this process."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = math.ceil(time.process_time() + seconds)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def die_with_parent(parent_pid: int) -> None:
    """End when the parent ends, however it ends: the kernel's signal on Linux, end of stdin everywhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)  # it died before we asked


def watch_stdin() -> None:
    """End at the end of stdin. Called behind the walls: a thread that is older than they are stands outside."""
    threading.Thread(target=_exit_at_end_of_stdin, name="parent-watch", daemon=True).start()


def _exit_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def standing_walls() -> list[str]:
    """What stands around a decode child on this system, tried out in a process of its own."""
    code = "import json, neverblink.sources.sandbox as s; print(json.dumps(s.enclose(max_data_bytes=1 << 30, port=1)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    told = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, timeout=30, check=True
    )
    return [str(wall) for wall in json.loads(told.stdout)]
