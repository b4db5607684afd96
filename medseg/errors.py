"""Every error that medseg raises on purpose, and the exit code each one ends the program with.

::

    MedsegError                 1   something failed; other cases are done
    +-- ConfigError             2   the YAML or the command must change
    |   +-- BundleError         2   a model bundle is missing, damaged or does not fit
    +-- ManifestError           2   the list of cases must change
    +-- InputError              3   the data are refused
    |   +-- ImageReadError      3   a file cannot be read as an image
    |   +-- GeometryError       3   a grid is irregular or does not match another
    |   +-- LabelError          3   a label value or name is not in the table
    |   +-- InputRefusedError   3   a readable image that this model must not be used on
    +-- TrainingError           1   the training cannot go on (loss not finite)
    +-- PacsRejectedError       1   the archive answered, and does not want what was asked
    +-- EnvironmentFailure      4   the machine: disk, memory, permissions
    |   +-- StorageError        4   no space, read-only, unreadable folder
    |   +-- WorkerError         4   a loader process died or hangs
    |   +-- PacsUnreachableError 4  the archive does not answer
    |   +-- MissingPackageError 4   an optional package is needed
    |   +-- EngineError         4   the engine that was asked for gives other masks, or cannot run the network
    +-- QualityError            5   the run went well, its result is below what the YAML requires
    +-- Interrupted           130   the user stopped the run; its state is saved

A message is one sentence: what was expected, what was found, where, what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class MedsegError(Exception):
    """Base of all errors that a user can cause or mend."""

    exit_code: ClassVar[int] = 1


class ConfigError(MedsegError):
    """The YAML file or the command line must be changed."""

    exit_code = 2


class BundleError(ConfigError):
    """A model bundle is missing, damaged, or does not fit the task."""


class ManifestError(MedsegError):
    """The list of cases must be changed."""

    exit_code = 2


class InputError(MedsegError):
    """Input data are refused."""

    exit_code = 3


class ImageReadError(InputError):
    """A file cannot be read as an image."""


class GeometryError(InputError):
    """A grid is irregular, or two grids that must agree do not."""


class LabelError(InputError):
    """A label value or name is not in the label table."""


class InputRefusedError(InputError):
    """A readable image that the model must not be used on."""


class TrainingError(MedsegError):
    """The training cannot go on."""


class PacsRejectedError(MedsegError):
    """The archive answered, and does not want what was asked."""


class EnvironmentFailure(MedsegError):
    """The machine cannot do what is asked: disk, memory, permissions, packages."""

    exit_code = 4


class StorageError(EnvironmentFailure):
    """A file or folder cannot be written or read."""


class WorkerError(EnvironmentFailure):
    """A loader process died or does not answer."""


class PacsUnreachableError(EnvironmentFailure):
    """The archive does not answer."""


class MissingPackageError(EnvironmentFailure):
    """An optional package is needed for what was asked."""


class EngineError(EnvironmentFailure):
    """An engine that was asked for by name cannot run the network, or gives other masks than float32 torch."""


class QualityError(MedsegError):
    """The run went well; its result is below what the YAML requires."""

    exit_code = 5


class Interrupted(MedsegError):
    """The user stopped the run; its state is saved."""

    exit_code = 130
