"""Files and addresses that the decode child may touch (Linux Landlock): its one file, or its one door; nothing else."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

CREATE, ADD_RULE, RESTRICT = 444, 445, 446  # the same numbers on every architecture
VERSION_FLAG = 1
PATH_BENEATH, NET_PORT = 1, 2
READ_FILE, READ_FOLDER, WRITE_FILE, IOCTL_DEVICE = 1 << 2, 1 << 3, 1 << 1, 1 << 15
ALL_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # since that version
CONNECT_TCP, BIND_TCP = 2, 1  # since version 4
OTHERS_SOCKETS, OTHERS_SIGNALS = 1, 2  # since version 6
PR_SET_NO_NEW_PRIVS = 38


def version() -> int:
    """Of Landlock in this kernel; 0 where there is none."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return 0
    return max(0, int(_call(CREATE, None, 0, VERSION_FLAG)))


def confine(
    *, files: tuple[str, ...] = (), folders: tuple[str, ...] = (), device: bool = False, port: int | None = None
) -> list[str]:
    """From here on: of all files only these, to be read (a device: also to be set up), and TCP only to this port.

    Args:
        folders: all that is in them may be read.

    Returns:
        What the kernel enforces, of "files" and "addresses", for this thread and those that it starts.
    """
    held = version()
    if not held:
        return []
    rights = ALL_FILE_RIGHTS[max(v for v in ALL_FILE_RIGHTS if v <= held)]
    net = CONNECT_TCP | BIND_TCP if held >= 4 else 0
    scoped = OTHERS_SOCKETS | OTHERS_SIGNALS if held >= 6 else 0
    sizes = 8 if held < 4 else 16 if held < 6 else 24
    attributes = struct.pack("QQQ", rights, net, scoped)[:sizes]
    rules = _call(CREATE, attributes, sizes, 0)
    if rules < 0:
        return []
    try:
        allowed = READ_FILE | (WRITE_FILE | IOCTL_DEVICE if device else 0)
        for name in (*files, *folders):
            try:
                handle = os.open(name, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # what is not there needs no permission; whoever opens it will say so
            right = allowed if name in files else READ_FILE | READ_FOLDER
            added = _call(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", right & rights, handle), 0)
            os.close(handle)
            if added:
                return []
        if port is not None and net and _call(ADD_RULE, rules, NET_PORT, struct.pack("QQ", CONNECT_TCP, port), 0):
            return []
        zero = ctypes.c_ulong(0)
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero)
        if _call(RESTRICT, rules, 0):
            return []
    finally:
        os.close(rules)
    return ["files", "addresses"] if net else ["files"]


def _call(number: int, *arguments: int | bytes | None) -> int:
    made = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(number), *made))
