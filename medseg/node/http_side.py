"""The HTTP side of a node, joined with its other parts; its packages are imported where it is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from medseg.errors import MissingPackageError
from medseg.node.arrival import IN_FLIGHT, Arrival, Budget, Peer, Receipt
from medseg.node.listen_options import HttpListenOptions
from medseg.node.node_view import node_view
from medseg.node.stow import StowAnswer, store_request
from medseg.node.web.accounts import Accounts

if TYPE_CHECKING:
    from medseg.node.service import Node
    from medseg.node.web.gate import Store
    from medseg.node.web.server import HttpServer

_STORE_THREADS = 16


def http_server(node: Node, options: HttpListenOptions, accounts: Accounts, *, secret: bytes) -> HttpServer:
    """The listener with page, API and STOW-RS; it is not started yet.

    Parameters
    ----------
    node : Node
    options : HttpListenOptions
    accounts : Accounts
    secret : bytes
        Of the node: sessions are signed with keys that are made of it, and numbers are searched by its digests.

    Raises
    ------
    MissingPackageError
        The packages of the HTTP side are not installed.
    ConfigError
        Certificate and key cannot be used.
    """
    try:
        from medseg.node.web.app import create_app
        from medseg.node.web.server import HttpServer
    except ModuleNotFoundError as err:
        raise MissingPackageError(f"`http` needs {err.name}; pip install 'medseg[node]'") from err

    def turned_away(address: str, reason: str) -> None:
        if node.audit.is_told("http", "refused", address):
            # In a thread: the log is on a disk, and this is called in the event loop.
            asyncio.get_running_loop().run_in_executor(
                None, lambda: node.audit.record("http", outcome="refused", address=address, reason=reason)
            )

    app = create_app(
        node_view(node, secret=secret),
        options,
        database=node.database,
        accounts=accounts,
        audit=node.audit,
        secret=secret,
        store=_store(node, options) if options.stow else None,
        turned_away=turned_away,
    )
    return HttpServer(app, options, refused=turned_away)


def _store(node: Node, options: HttpListenOptions) -> Store:
    """What takes the requests of STOW-RS in; instances are stored in threads, as many as disks like."""
    part_limit = node.config.storage.instance_limit
    budget = Budget(most=max(IN_FLIGHT, 2 * part_limit))
    threads = ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="stow")

    async def accept(arrival: Arrival) -> Receipt:
        return await asyncio.get_running_loop().run_in_executor(threads, node.intake.accept, arrival)

    async def store(
        content_type: str, chunks: AsyncIterator[bytes], peer: Peer, study_uid: str
    ) -> StowAnswer:
        return await store_request(
            content_type,
            chunks,
            store=accept,
            peer=peer,
            part_limit=part_limit,
            body_limit=options.body_limit,
            budget=budget,
            study_uid=study_uid,
        )

    return store
