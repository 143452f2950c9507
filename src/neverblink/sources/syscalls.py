"""A filter of system calls for the decode child (Linux seccomp): the kernel refuses what a decoder never needs."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LD_WORD, JUMP_IF_EQUAL, JUMP_IF_ABOVE, JUMP_IF_BITS, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16  # offsets in what the kernel shows a filter
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CLONE_THREAD = 0x10000
AF_INET, SOCK_STREAM, TYPE_MASK = 2, 1, 0xF
Step = tuple[int, int, int, int]  # code, jump if true, jump if false, value

# Numbers of x86_64 and aarch64; None where the other one has no such call.
NEVER: dict[str, tuple[int | None, int | None]] = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kill": (62, 129),
    "tkill": (200, 130),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "creat": (85, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utimensat": (280, 88),
    "mount": (165, 40),
    "umount2": (166, 39),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "setns": (308, 268),
    "unshare": (272, 97),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "socketpair": (53, 199),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "open_by_handle_at": (304, 265),
}
ABSENT = {"clone3": (435, 435), "openat2": (437, 437)}  # "not in this kernel": libraries then take the older call
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, the kernel's name
# clone, tgkill, prlimit64, socket, open, openat
LOOKED_AT = ((56, 220), (234, 131), (302, 261), (41, 198), (2, None), (257, 56))


def filter_calls(*, sockets: bool, writes: bool) -> bool:
    """From here on: no new process or program, no signal or look at others, no listening, no change of any file.

    Args:
        sockets: TCP connections may be made. writes: files may be opened for writing (a camera device).

    Returns:
        True where the kernel enforces it, for this thread and those that it starts.
    """
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        return False
    steps = _program(sockets=sockets, writes=writes)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    filters = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    libc, zero = ctypes.CDLL(None), ctypes.c_ulong(0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero)
    return bool(0 == libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), filters, zero, zero))


def _program(*, sockets: bool, writes: bool) -> list[Step]:
    column, architecture = ARCHITECTURES[platform.machine()]
    refuse, absent = _give(ERRNO | errno.EPERM), _give(ERRNO | errno.ENOSYS)
    steps: list[Step] = [
        (LD_WORD, 0, 0, ARCHITECTURE_AT),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        _give(KILL),  # the 32-bit calls have other numbers
        (LD_WORD, 0, 0, NUMBER_AT),
    ]
    if platform.machine() == "x86_64":
        steps += [(JUMP_IF_ABOVE, 0, 1, 0x40000000), refuse]  # x32: the same calls under other numbers
    for numbers, answer in [*((n, refuse) for n in NEVER.values()), *((n, absent) for n in ABSENT.values())]:
        steps += _when(numbers[column], [answer])
    clone, tgkill, prlimit, socket, open_, openat = (numbers[column] for numbers in LOOKED_AT)
    allow = _give(ALLOW)
    steps += _when(clone, [_argument(0), (JUMP_IF_BITS, 1, 0, CLONE_THREAD), refuse, allow])
    steps += _when(tgkill, [_argument(0), (JUMP_IF_EQUAL, 1, 0, os.getpid()), refuse, allow])
    steps += _when(prlimit, [_argument(0), (JUMP_IF_EQUAL, 1, 0, 0), refuse, allow])
    if sockets:
        kind: list[Step] = [_argument(1), (AND, 0, 0, TYPE_MASK), (JUMP_IF_EQUAL, 1, 0, SOCK_STREAM), refuse, allow]
        steps += _when(socket, [_argument(0), (JUMP_IF_EQUAL, 1, 0, AF_INET), refuse, *kind])
    else:
        steps += _when(socket, [refuse])
    if not writes:
        for number, flags in ((open_, 1), (openat, 2)):
            steps += _when(number, [_argument(flags), (JUMP_IF_BITS, 0, 1, WRITING), refuse, allow])
    return [*steps, allow]


def _give(answer: int) -> Step:
    return (RETURN, 0, 0, answer)


def _argument(number: int) -> Step:
    """The low half of an argument; no flag that is looked at lies in the high one."""
    return (LD_WORD, 0, 0, ARGUMENTS_AT + 8 * number)


def _when(number: int | None, steps: list[Step]) -> list[Step]:
    """`steps`, which give an answer on every path, for one call; nothing for the others."""
    return [] if number is None else [(JUMP_IF_EQUAL, 0, len(steps), number), *steps]
