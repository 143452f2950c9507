"""The walls around the decode child: little memory, few files, no writing, no new programs, no life of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import threading

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
SECCOMP_MODE_FILTER = 2
# Linux system call numbers of execve and execveat, then of socket: (audit architecture, execs, socket).
_CALLS = {"x86_64": (0xC000003E, (59, 322), 41), "aarch64": (0xC00000B7, (221, 281), 198)}


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


def die_with_parent(parent_pid: int) -> None:
    """End when the parent ends, however it ends: the kernel's signal on Linux, end of stdin everywhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)  # it died before we asked
    threading.Thread(target=_exit_at_end_of_stdin, name="parent-watch", daemon=True).start()


def _exit_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def forbid_calls(*, sockets: bool) -> bool:
    """No new programs from here on and, if `sockets`, no network either; True where the kernel enforces it."""
    if sys.platform != "linux" or platform.machine() not in _CALLS:
        return False
    architecture, execs, socket_call = _CALLS[platform.machine()]
    denied = (*execs, socket_call) if sockets else execs
    # Classic BPF: other architecture -> allow (we never run one); a denied call -> EPERM; else allow.
    program = [struct.pack("HBBI", 0x20, 0, 0, 4), struct.pack("HBBI", 0x15, 0, len(denied) + 1, architecture)]
    program.append(struct.pack("HBBI", 0x20, 0, 0, 0))
    program += [struct.pack("HBBI", 0x15, len(denied) - i, 0, call) for i, call in enumerate(denied)]
    program += [struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000), struct.pack("HBBI", 0x06, 0, 0, 0x00050001)]
    code = ctypes.create_string_buffer(b"".join(program))
    filters = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    zero = ctypes.c_ulong(0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero)
    return bool(0 == libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), filters, zero, zero))
