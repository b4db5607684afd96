"""The command `medseg serve`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli_options import AsJson
from medseg.errors import ConfigError, Interrupted, MissingPackageError, StorageError

if TYPE_CHECKING:
    from medseg.node.options import NodeConfig
    from medseg.node.status import NodeStatus


_GO_ON = "stopped; go on with the same command"


def serve(
    settings: Annotated[Path, typer.Argument(metavar="NODE.YAML", help="Settings of the node.")],
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Look at settings, models, certificates, secrets, database and addresses; start and write nothing.",
        ),
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Tell what the node is doing; 1 where it does not run.")
    ] = False,
    log: Annotated[
        str, typer.Option(help="Form of the log on stderr: json, one object a line, or text.")
    ] = "json",
    as_json: AsJson = False,
) -> None:
    """Take studies in, run pipelines on those that match, send checked results on.

    SIGTERM stops it within 25 s: nothing new is begun, jobs that do not end in `jobs.stop_grace` go back to the
    queue. A second one stops it at once, and nothing is lost by that either. 0 after SIGTERM, 130 after Ctrl-C.
    """
    with _extra():
        from medseg.node.status import node_status, read_config

    if log not in ("json", "text"):
        raise ConfigError(f"--log {log} is unknown; expected json or text")
    config = read_config(settings)
    if status:
        from medseg.node.clock import Clock

        _tell(node_status(config, Clock()), as_json=as_json)
    elif check:
        _check(settings, config, as_json=as_json)
    else:
        _run(settings, config, log)


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """Say which extra is needed where an import of the block fails."""
    try:
        yield
    except ImportError as err:
        raise MissingPackageError(f"the node needs {err.name}; pip install 'medseg[node]'") from err


@contextlib.contextmanager
def _named(settings: Path) -> Iterator[None]:
    """Name the file whose settings cannot be used."""
    try:
        yield
    except (ConfigError, StorageError) as err:
        from medseg.config.problems import SettingsError

        # That names its file itself.
        if isinstance(err, SettingsError):
            raise
        raise type(err)(f"{settings}: {err}") from err


def _check(settings: Path, config: NodeConfig, *, as_json: bool) -> None:
    with _extra():
        if config.http is not None:
            import medseg.node.web.app
            import medseg.node.web.server
        import medseg.node.service  # noqa: F401 (what the node will need)
        from medseg.node.clock import Clock
        from medseg.node.expiry import expiring
        from medseg.node.isolation import WALLS, network_wall
        from medseg.node.settings_check import check, missing_folders
        from medseg.node.start_check import check_start
        from medseg.node.worklist_check import worklist_lines

    with _named(settings):
        checked = check(config)
        lines = check_start(config, checked)
    models, expires = checked.models, expiring(checked.certificates, Clock().now())
    rows = [{"rule": name, "model": model.model, "digest": model.digest} for name, model in models.items()]
    wall = network_wall()
    if as_json:
        found = {"rules": rows, "work_lists": worklist_lines(config), "workers_network": wall}
        found |= {"missing_folders": missing_folders(config), "certificates": expires, "start": lines}
        print(json.dumps(found, indent=2))
        return
    for row in rows:
        print(f"rule {row['rule']}: {row['model']} ({row['digest'][:12]})")
    for line in [*worklist_lines(config), *missing_folders(config), *expires, *lines]:
        print(line)
    print(WALLS[wall])
    print("the settings can be used")


def _tell(found: NodeStatus, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        from medseg.node.status import status_lines

        print("\n".join(status_lines(found)))
    if found.running is False:
        raise typer.Exit(1)


def _run(settings: Path, config: NodeConfig, log: str) -> None:
    with _extra():
        from medseg.node.json_log import log_to_stderr
        from medseg.node.service import running

    log_to_stderr("text" if log == "text" else "json")
    # Images and results are nobody else's on this machine, also in a folder that was there before.
    os.umask(0o077)
    asked = _Asked()
    with contextlib.ExitStack() as stack:
        with _named(settings):
            node = stack.enter_context(running(config))
        print(json.dumps({"listening": node.listeners()}), flush=True)
        asked.wait()
    _leave(Interrupted.exit_code if asked.by == signal.SIGINT else 0)
    if asked.by == signal.SIGINT:
        raise Interrupted(_GO_ON)


def _leave(exit_code: int) -> None:
    """End the process where threads of other packages would keep it.

    pynetdicom's wait for a silent archive as long as its `timeout`; what they were sending is in the outbox.
    """
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        if exit_code:
            print(f"error: {_GO_ON}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


class _Asked:
    """Waits to be asked to stop; who asks twice is obeyed at once."""

    def __init__(self) -> None:
        self.by: int | None = None
        self._event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._heard)

    def wait(self) -> None:
        """Until the first signal."""
        self._event.wait()

    def _heard(self, number: int, _frame: object) -> None:
        if self.by is not None:
            # What is acknowledged is on disk; the next start takes up the rest.
            os._exit(Interrupted.exit_code)
        self.by = number
        self._event.set()
