"""What a start of the node would meet, looked at without starting: its folder, its database, its addresses."""

from __future__ import annotations

import errno

from medseg.database import Database
from medseg.node.home import look, refuse_unknown_files
from medseg.node.listen_options import DimseListenOptions, HttpListenOptions
from medseg.node.node_lock import holder_of
from medseg.node.options import NodeConfig, PostgresqlOptions
from medseg.node.settings_check import Checked
from medseg.node.tables import metadata
from medseg.node.tcp_listener import cannot_listen, listening_sockets
from medseg.node.vault import Vault


def check_start(config: NodeConfig, checked: Checked) -> list[str]:
    """Look at folder, database and addresses; nothing is written. Sentences that are no reason not to start.

    Raises
    ------
    ConfigError
        Folder and database do not belong together, or to this version.
    StorageError
        The database does not answer, the key of the storage is another one, or an address cannot be listened on.
    """
    shared = isinstance(config.database, PostgresqlOptions)
    if shared or (config.folder / "node.db").is_file():
        database = Database(checked.database_url, metadata, make=False)
        try:
            look(database, Vault(config.folder, checked.key, shared=shared))
        finally:
            database.close()
    else:
        refuse_unknown_files(config.folder)
    running, holder = holder_of(config.folder)
    if running:
        return [f"the node runs ({holder}); its addresses were not looked at"]
    listeners = {"dimse": config.dimse, "http": config.http}
    lines = (_address(field, options, shared) for field, options in listeners.items() if options is not None)
    return [line for line in lines if line]


def _address(field: str, options: DimseListenOptions | HttpListenOptions, shared: bool) -> str:
    """Take an address and let go of it; a sentence where it is in use, maybe by the node itself."""
    try:
        for listening in listening_sockets(options.host, options.port):
            listening.close()
    except OSError as err:
        problem = cannot_listen(options.host, options.port, field, err)
        if not shared or err.errno != errno.EADDRINUSE:
            raise problem from err
        return f"{problem}, unless it is this node itself"
    return ""
