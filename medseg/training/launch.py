"""Starts the same command in several processes on this machine, as torchrun does."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from medseg.errors import ConfigError, Interrupted


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run ``python -m medseg <arguments>`` in several processes; the exit code of the first that failed, or 0.

    The processes share the cores. When one dies the others are ended; they tell their reasons themselves.

    Parameters
    ----------
    processes : int
    arguments : sequence of str

    Raises
    ------
    ConfigError
        This process is itself one of several.
    """
    if "RANK" in os.environ:
        raise ConfigError("--processes starts processes of its own; leave it out under torchrun")
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    config = LaunchConfig(
        run_id=uuid.uuid4().hex,
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "medseg", *arguments)
    except ChildFailedError as err:
        rank, failure = err.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            sys.stderr.write(
                f"error: training process {rank} of {processes} was ended by {name}; give the same "
            )
            sys.stderr.write("command again to go on from the last checkpoint\n")
            return 1
        return failure.exitcode
    except SignalException:
        return Interrupted.exit_code
    return 0
