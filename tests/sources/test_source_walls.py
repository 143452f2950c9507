"""The walls around the decode child, tried from inside."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import media
from neverblink.sources import SourceOptions, open_source
from neverblink.sources.rules import MAX_DATA_BYTES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TRY = """
import ctypes, errno, json, os, resource, socket, sys, threading
import av, numpy
from neverblink.sources.sandbox import enclose
asked = json.loads(sys.argv[1])
walls = enclose(max_data_bytes=1 << 30, **asked["enclose"])
def outcome(code):
    try:
        exec(code, {"os": os, "socket": socket, "resource": resource, "threading": threading, "ctypes": ctypes})
    except (OSError, MemoryError, RuntimeError) as error:
        return type(error).__name__
    return "done"
print(json.dumps([walls, [outcome(code) for code in asked["codes"]]]))
"""


def outcomes(codes, **walls) -> list[str]:
    """What becomes of each piece of code behind the walls."""
    asked = json.dumps({"enclose": walls, "codes": codes})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, "-c", TRY, asked], capture_output=True, text=True, env=environment)
    assert 0 == told.returncode, told.stderr
    standing, found = json.loads(told.stdout)
    assert ["limits", "files", "addresses", "calls"] == standing
    return found


def test_the_child_is_walled_in(tmp_path, monkeypatch):
    """Limits, filters and an empty environment, in every thread of a child that decodes."""
    monkeypatch.setenv("NEVERBLINK_SECRET", "hunter2")
    path = media.write_video(tmp_path / "clip.mp4", frames=300)
    with open_source(path, SourceOptions(fps=30)) as source:
        next(source.frames())
        proc = Path(f"/proc/{source.child_pid}")
        limits = (proc / "limits").read_text()
        for line in (f"data size             {MAX_DATA_BYTES}", "core file size        0", "file size             0"):
            assert f"Max {line}" in limits
        assert "Max open files            64" in limits
        assert "unlimited" not in next(line for line in limits.splitlines() if "cpu time" in line).split()[3]
        assert b"hunter2" not in (proc / "environ").read_bytes()
        assert str(path).encode() not in (proc / "cmdline").read_bytes()
        for task in (proc / "task").iterdir():
            status = (task / "status").read_text()
            assert "Seccomp:\t2" in status
            assert "NoNewPrivs:\t1" in status
        # Its three standard descriptors, the pipe to us, and the file.
        held = {os.readlink(link) for link in (proc / "fd").iterdir()}
        assert {str(path), "/dev/null"} == {name for name in held if not name.startswith("pipe:")}
        assert psutil.Process(source.child_pid).memory_info().rss < 512 << 20


def test_a_file_child_reads_its_file_and_nothing_else(tmp_path):
    """No other file, no writing, no network, no process, no program, no memory over the limit; its own file opens."""
    (tmp_path / "clip.mp4").write_bytes(b"video")
    (tmp_path / "notes.txt").write_text("secret")
    mine, other = str(tmp_path / "clip.mp4"), str(tmp_path / "notes.txt")
    codes = {
        f"open({mine!r}).read()": "done",
        "threading.Thread(target=print).start()": "done",
        f"open({other!r})": "PermissionError",
        "open('/etc/passwd')": "PermissionError",
        f"os.listdir({str(tmp_path)!r})": "PermissionError",
        f"open({mine!r}, 'r+')": "PermissionError",
        f"open({str(tmp_path / 'new')!r}, 'w')": "PermissionError",
        f"os.unlink({mine!r})": "PermissionError",
        f"os.rename({mine!r}, {other!r})": "PermissionError",
        f"os.chmod({mine!r}, 0)": "PermissionError",
        "socket.socket()": "PermissionError",
        "socket.socket(socket.AF_UNIX)": "PermissionError",
        "os.fork()": "PermissionError",
        "os.posix_spawn('/bin/true', ['true'], {})": "PermissionError",
        "os.execv('/bin/true', ['true'])": "PermissionError",
        f"os.kill({os.getpid()}, 0)": "PermissionError",
        f"resource.prlimit({os.getpid()}, resource.RLIMIT_NOFILE)": "PermissionError",
        "os.memfd_create('x')": "PermissionError",
        "bytearray(2 << 30)": "MemoryError",
    }
    assert codes == dict(zip(codes, outcomes(list(codes), file=mine), strict=True))


def test_a_network_child_reaches_its_door_and_nothing_else():
    """One TCP port of this machine; no other port, no UDP, no listening, no file."""
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_server(("127.0.0.1", 0)) as other:
        codes = {
            f"socket.create_connection(('127.0.0.1', {door.getsockname()[1]}))": "done",
            f"socket.create_connection(('127.0.0.1', {other.getsockname()[1]}))": "PermissionError",
            "socket.socket(socket.AF_INET6)": "PermissionError",
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)": "PermissionError",
            "socket.socket(socket.AF_UNIX)": "PermissionError",
            "socket.socket().bind(('127.0.0.1', 0))": "PermissionError",
            "socket.socket().listen()": "PermissionError",
            "open('/etc/passwd')": "PermissionError",
            "os.fork()": "PermissionError",
        }
        assert codes == dict(zip(codes, outcomes(list(codes), port=door.getsockname()[1]), strict=True))


def test_calls_of_other_architectures_end_the_process():
    """The filter speaks of 64-bit numbers only; the old 32-bit door (int 0x80, x86) is shut altogether."""
    if os.uname().machine != "x86_64":
        pytest.skip("int 0x80 is of x86")
    code = (
        "import ctypes, mmap\nfrom neverblink.sources.syscalls import filter_calls\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"  # mov eax, 20 (getpid); int 0x80; ret
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n"
        "print(call() > 0, flush=True)\nfilter_calls(sockets=False, writes=False)\ncall(); print('alive')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ("alive" not in told.stdout, told.returncode < 0) == (True, True), told


def test_a_child_that_computes_without_a_picture_is_ended():
    """Its CPU time is counted anew with each picture; without one the kernel ends it."""
    code = (
        "from neverblink.sources.sandbox import allow_cpu\nimport time\n"
        "for _ in range(3):\n"
        "    allow_cpu(0.5)\n"
        "    end = time.process_time() + 0.4\n"
        "    while time.process_time() < end: pass\n"
        "print('fed', flush=True)\n"
        "while True: pass"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ("fed\n", -24) == (told.stdout, told.returncode)  # SIGXCPU
