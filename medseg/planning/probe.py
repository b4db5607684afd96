"""A function run in a process of its own, so that its memory can be told from this one's."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from medseg.amounts import time_text
from medseg.errors import EnvironmentFailure, MedsegError

ArgumentT = TypeVar("ArgumentT")
ResultT = TypeVar("ResultT")
_TICK_S = 0.2
_STOP_S = 5.0


def in_child(
    job: Callable[[ArgumentT], ResultT],
    argument: ArgumentT,
    *,
    what: str,
    advice: str,
    limit_s: float = math.inf,
    waiting: Callable[[], None] | None = None,
) -> ResultT:
    """The result of ``job(argument)``, computed in a fresh process that ends with this one.

    Parameters
    ----------
    job : callable
        Importable by name; its argument and result can be pickled.
    what, advice : str
        What is done, and what to do where the process dies, for messages.
    limit_s : float, optional
        Seconds after which the process is ended.
    waiting : callable, optional
        Called a few times a second.

    Raises
    ------
    EnvironmentFailure
        The process died, took longer than `limit_s`, or raised something unexpected.
    MedsegError
        What the job raised.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    # No daemon: the job may start loader processes of its own.
    process = context.Process(target=_serve, args=(there, job, argument), name="medseg-probe")
    process.start()
    there.close()
    begin = time.monotonic()
    try:
        while not here.poll(_TICK_S):
            if time.monotonic() - begin > limit_s:
                process.kill()
                raise EnvironmentFailure(f"{what} had not ended after {time_text(limit_s)}; {advice}")
            if waiting is not None:
                waiting()
        answer: tuple[str, Any] = here.recv()
    except EOFError:
        process.join(_STOP_S)
        raise EnvironmentFailure(f"{what} was ended {_how(process.exitcode)}; {advice}") from None
    finally:
        here.close()
        _end(process)
    kind, value = answer
    if kind == "result":
        return value  # type: ignore[no-any-return]
    if isinstance(value, MedsegError):
        raise value
    raise EnvironmentFailure(f"{what} failed: {value}; {advice}")


def _end(process: Any) -> None:
    process.join(_STOP_S)
    if process.is_alive():
        process.terminate()
        process.join(_STOP_S)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        hint = ", which the system does when memory runs out" if code == -signal.SIGKILL else ""
        return f"by {signal.Signals(-code).name}{hint}"
    return f"with exit code {code}"


def _serve(connection: Connection[Any, Any], job: Callable[[Any], Any], argument: Any) -> None:
    """Main function of the process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer: tuple[str, Any] = ("result", job(argument))
    except MedsegError as err:
        answer = ("error", err)
    except Exception as err:
        answer = ("error", "".join(traceback.format_exception_only(err)).strip())
    with contextlib.suppress(OSError):
        connection.send(answer)
    connection.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
