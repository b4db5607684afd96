"""Accounts of the HTTP side: who somebody is, and what that lets him do."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medseg.errors import ConfigError
from medseg.node.callers import is_loopback
from medseg.node.listen_options import HttpListenOptions, Role, TokenOptions
from medseg.pacs.secret import read_secret

Permission = Literal["view", "act", "send"]
"""view: queue, reports, metrics; act: retry, hold, release, downloads, search by UID; send: STOW-RS."""

_ALLOWED: dict[Role, frozenset[Permission]] = {
    "viewer": frozenset({"view"}),
    "sender": frozenset({"send"}),
    "operator": frozenset({"view", "act"}),
    "admin": frozenset({"view", "act", "send"}),
}
_SHORTEST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Somebody who may come in. `digest` is the SHA-256 of the token."""

    name: str
    role: Role
    digest: bytes

    def may(self, permission: Permission) -> bool:
        """Whether the role has a permission."""
        return permission in _ALLOWED[self.role]


EVERYBODY = Account(name="local", role="admin", digest=b"")
"""Who asks where there are no accounts, which loopback alone may do."""


class Accounts:
    """The accounts of a node; with none of them everybody is let in.

    Parameters
    ----------
    accounts : sequence of Account
    """

    def __init__(self, accounts: Sequence[Account]) -> None:
        self._accounts = tuple(accounts)

    @property
    def open(self) -> bool:
        """Whether everybody is let in."""
        return not self._accounts

    def named(self, name: str) -> Account | None:
        """The account of a name."""
        if self.open:
            return EVERYBODY if name == EVERYBODY.name else None
        return next((account for account in self._accounts if account.name == name), None)

    def by_token(self, token: str, *, name: str | None = None) -> Account | None:
        """Whose token it is; with `name`, only if that is the account's name.

        Takes the same time for every wrong token: all accounts are compared, and digests instead of tokens.
        """
        digest, found = _digest(token), None
        for account in self._accounts:
            same = hmac.compare_digest(account.digest, digest)
            named = name is None or hmac.compare_digest(account.name.encode(), name.encode())
            if same and named:
                found = account
        return found


def read_accounts(options: HttpListenOptions) -> Accounts:
    """The accounts of the settings with their tokens.

    Raises
    ------
    ConfigError
        A token cannot be read, is short, or belongs to two; or the listener is open to the network.
    """
    _check_open(options)
    accounts = [_account(entry, index) for index, entry in enumerate(options.accounts)]
    if doubled := _doubled([account.name for account in accounts]):
        raise ConfigError(f"http.accounts: the name {doubled!r} is used twice")
    if len({account.digest for account in accounts}) < len(accounts):
        raise ConfigError("http.accounts: two accounts have the same token; give each its own")
    return Accounts(accounts)


def _account(entry: TokenOptions, index: int) -> Account:
    field = f"http.accounts[{index}].token"
    token = read_secret(entry.token, field=field)
    if len(token) < _SHORTEST:
        raise ConfigError(f"{field}: {len(token)} characters, expected {_SHORTEST} or more")
    return Account(name=entry.name, role=entry.role, digest=_digest(token))


def _check_open(options: HttpListenOptions) -> None:
    if is_loopback(options.host) and not options.behind_proxy:
        return
    where = f"http.host {options.host} is open to the network"
    if options.behind_proxy:
        where = "http.behind_proxy lets others in through the proxy"
    if not options.accounts:
        raise ConfigError(f"{where}; expected http.accounts, or http.host 127.0.0.1 without a proxy")
    if options.tls is None and not options.behind_proxy:
        raise ConfigError(
            f"{where} and tokens would cross it in the clear; expected http.tls, or http.behind_proxy where a proxy "
            "on this machine ends TLS"
        )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _doubled(names: Sequence[str]) -> str:
    return next((name for name in names if names.count(name) > 1), "")
