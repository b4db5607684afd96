"""A job that worker processes can import quickly: what it does is the payload of the task."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from medseg.data.worker_pool import Task
from medseg.errors import GeometryError


def act(task: Task) -> Any:
    match task.payload:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "loop":
            while True:
                time.sleep(0.01)
        case "exit":
            os._exit(7)
        case "fail":
            raise ValueError("no such intensity")
        case "refuse":
            raise GeometryError("the grid is bent")
        case float() as seconds:
            time.sleep(seconds)
    return task.index, os.getpid(), task.payload
