"""What the kernel takes from a worker process before it sees an image: the network, and life beyond its supervisor.

Two walls against the network, the better one first: a network namespace with nothing in it, and where a container
allows none (the default of Docker and Kubernetes) a filter of system calls that refuses every socket but local ones.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Literal

Wall = Literal["namespace", "filter", "none"]
WALLS: dict[Wall, str] = {
    "namespace": "worker processes have no network (a namespace of their own)",
    "filter": "worker processes have no network (a filter of system calls; namespaces are not allowed here)",
    "none": "worker processes are NOT kept from the network: the kernel allows neither namespaces nor filters here",
}

_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EACCES
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_AF_UNIX, _IO_URING_SETUP, _X32 = 1, 425, 0x40000000
_SYSTEMS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Number of the architecture in linux/audit.h, and that of the call `socket`."""


def leave_network() -> Wall:
    """Take the network from this process and all that it starts; called before it has threads."""
    if sys.platform != "linux":
        return "none"
    libc = ctypes.CDLL(None, use_errno=True)
    if _in_own_namespace(libc):
        return "namespace"
    return "filter" if _filtered(libc) else "none"


def end_with_supervisor() -> None:
    """A supervisor that is killed takes this process along, however busy it is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def network_wall() -> Wall:
    """The wall that worker processes get here, found by a process that tries."""
    command = (sys.executable, "-P", "-m", "medseg.node.isolation")
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return said if said in WALLS else "none"


def _in_own_namespace(libc: ctypes.CDLL) -> bool:
    user, group = os.getuid(), os.getgid()
    # Root may; others may inside of a user namespace of their own, in which they stay who they are.
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        # It is called nobody from now on, and may do what it might before.
        pass
    return True


def _filtered(libc: ctypes.CDLL) -> bool:
    if platform.machine() not in _SYSTEMS:
        return False
    code = _filter(*_SYSTEMS[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0)


def _filter(architecture: int, socket_call: int) -> bytes:
    """A program that refuses sockets of all families but the local one, and rings, which open sockets as well.

    Calls of another architecture are refused as a whole: they have other numbers.
    """
    steps = (
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 0, 7, architecture),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 5, 0, _X32),
        (_EQUAL, 4, 0, _IO_URING_SETUP),
        (_EQUAL, 0, 2, socket_call),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_EQUAL, 0, 1, _AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    )
    return b"".join(struct.pack("HBBI", *step) for step in steps)


if __name__ == "__main__":
    sys.stdout.write(leave_network())
