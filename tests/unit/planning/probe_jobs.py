"""Work for a process of its own, importable by it."""

import os
import signal
import time

from medseg.errors import ConfigError
from medseg.memory import peak_memory_bytes


def doubled(number):
    return 2 * number


def own_peak(_):
    return peak_memory_bytes(), os.getpid()


def refused(text):
    raise ConfigError(text)


def broken(_):
    raise ZeroDivisionError("by nothing")


def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def slow(seconds):
    time.sleep(seconds)
    return seconds
