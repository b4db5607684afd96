"""Worker processes reach no network, by a namespace or by a filter, and end with their supervisor."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medseg.node.isolation import WALLS, network_wall

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="walls of Linux")

TRIES = """
import json, os, socket, subprocess, sys, threading
from medseg.node import isolation

how, port = sys.argv[1], int(sys.argv[2])
if how == "filter":
    isolation._in_own_namespace = lambda libc: False
elif how == "none":
    isolation._in_own_namespace = isolation._filtered = lambda libc: False
found = {"wall": isolation.leave_network()}

def attempt(name, call):
    try:
        call()
        found[name] = "reached"
    except OSError as err:
        found[name] = type(err).__name__

attempt("tcp", lambda: socket.create_connection(("127.0.0.1", port), timeout=2))
attempt("name", lambda: socket.getaddrinfo("archive.example", 80))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)))
attempt("tcp6", lambda: socket.create_connection(("::1", port), timeout=2))
thread = threading.Thread(target=attempt, args=("thread", lambda: socket.create_connection(("127.0.0.1", port), 2)))
thread.start()
thread.join()
again = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
done = subprocess.run([sys.executable, "-c", again], stderr=subprocess.DEVNULL)
found["child"] = "reached" if done.returncode == 0 else "no"
one, other = socket.socketpair()
one.send(b"x")
found["pair"] = other.recv(1).decode()
found["user"] = os.getuid()
print(json.dumps(found))
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        yield listening


def tried(how: str, port: int) -> dict:
    command = [sys.executable, "-c", TRIES, how, str(port)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.parametrize("how", ["namespace", "filter"])
def test_nothing_is_reached_and_no_name_is_resolved(listener: socket.socket, how: str):
    if how == "namespace" and network_wall() != "namespace":
        pytest.skip("no namespaces here")
    if how == "filter" and platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("no filter for this architecture")
    found = tried(how, listener.getsockname()[1])
    assert found["wall"] == how
    reached = {name for name, said in found.items() if said == "reached"}
    assert reached == set()
    assert (found["pair"], found["user"]) == ("x", os.getuid())
    with pytest.raises(TimeoutError):
        listener.accept()


def test_without_a_wall_the_listener_is_reached(listener: socket.socket):
    found = tried("none", listener.getsockname()[1])
    assert (found["wall"], found["tcp"], found["thread"], found["child"]) == ("none", *["reached"] * 3)
    assert "NOT kept from the network" in WALLS["none"]


def test_the_worker_itself_has_no_network(listener: socket.socket, tmp_path: Path):
    port = listener.getsockname()[1]
    script = (
        "import socket\nfrom medseg.node import worker\n"
        f"worker._do = lambda request: {{'said': socket.socket().connect_ex(('127.0.0.1', {port}))}}\n"
        "worker.main()\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], input="{}\n", capture_output=True, text=True, check=False, timeout=60
    )
    assert network_wall() == "none" or 'said": 0' not in said.stdout
    with pytest.raises(TimeoutError):
        listener.accept()


def test_a_busy_worker_ends_with_a_supervisor_that_is_killed(tmp_path: Path):
    busy = (
        "import time\nfrom medseg.node.isolation import end_with_supervisor\nend_with_supervisor()\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )
    supervisor = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {busy!r}], stdout=subprocess.PIPE, start_new_session=True)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", supervisor], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while _lives(worker):
        assert time.monotonic() < end, "the worker lives on"
        time.sleep(0.05)


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
