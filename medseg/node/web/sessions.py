"""Log-ins of the page: a signed cookie, and the token that every action must carry."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import delete, select

from medseg.database import Database
from medseg.node.clock import Clock
from medseg.node.tables import ended_sessions
from medseg.node.web.accounts import Account, Accounts

_REMEMBERED_S = 30 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A log-in: who, since when, and the random text that tells it apart."""

    account: Account
    issued_at: int
    nonce: str


class Sessions:
    """Makes and checks cookies.

    The key of a cookie depends on the account's token, so a new token ends the sessions of the old one; sessions
    and their ends outlive a restart, and nodes with one folder know each other's.

    Parameters
    ----------
    accounts : Accounts
    database : Database
        Where sessions that were ended are noted.
    secret : bytes
        Of the node.
    lasts_s : float
        How long a session lasts.
    clock : Clock
    """

    def __init__(
        self, accounts: Accounts, *, database: Database, secret: bytes, lasts_s: float, clock: Clock
    ) -> None:
        self._accounts, self._database, self._secret, self._clock = accounts, database, secret, clock
        self.lasts_s = lasts_s

    def begin(self, account: Account) -> tuple[Session, str]:
        """A new session and the value of its cookie."""
        session = Session(
            account=account, issued_at=int(self._clock.steady()), nonce=secrets.token_urlsafe(18)
        )
        text = f"{account.name}|{session.issued_at}|{session.nonce}"
        signature = self._sign(account, "session", text)
        return session, f"{base64.urlsafe_b64encode(text.encode()).decode()}.{signature}"

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None where it is forged, old, ended, or of nobody.

        Raises
        ------
        StorageError
            The database does not say whether it was ended.
        """
        encoded, _, signature = cookie.partition(".")
        try:
            name, issued, nonce = base64.b64decode(encoded, b"-_", validate=True).decode("ascii").split("|")
            issued_at = int(issued)
        except (binascii.Error, ValueError):
            return None
        account = self._accounts.named(name)
        if account is None:
            return None
        text = f"{name}|{issued_at}|{nonce}"
        if not hmac.compare_digest(self._sign(account, "session", text).encode(), signature.encode()):
            return None
        # A clock that was set back before a restart must not make a session last longer than it may.
        age = self._clock.steady() - issued_at
        if not -60.0 <= age <= self.lasts_s or self._is_ended(nonce):
            return None
        return Session(account=account, issued_at=issued_at, nonce=nonce)

    def end(self, session: Session) -> None:
        """Let a session's cookie be worth nothing from now on, for every node, also after a restart.

        Raises
        ------
        StorageError
            The database cannot be written; the session goes on.
        """
        row = {"nonce": session.nonce, "at": self._clock.steady()}
        # Longer than it lasts: what has ended must not live again where `http.session` is made longer.
        old = self._clock.steady() - max(self.lasts_s, _REMEMBERED_S)
        with self._database.write() as connection:
            connection.execute(delete(ended_sessions).where(ended_sessions.c.at < old))
            connection.execute(self._database.insert(ended_sessions).on_conflict_do_nothing(), row)

    def _is_ended(self, nonce: str) -> bool:
        with self._database.read() as connection:
            found = select(ended_sessions.c.nonce).where(ended_sessions.c.nonce == nonce)
            return connection.execute(found).first() is not None

    def form_token(self, session: Session) -> str:
        """What a form of this session must carry, so that no other site can send it."""
        return self._sign(session.account, "form", session.nonce)

    def is_form_token(self, session: Session, token: str) -> bool:
        """Whether a form is of this session."""
        return hmac.compare_digest(self.form_token(session).encode(), token.encode("utf-8", "replace"))

    def _sign(self, account: Account, use: str, text: str) -> str:
        key = hmac.digest(self._secret, b"medseg session " + account.digest, hashlib.sha256)
        return hmac.new(key, f"{use}|{text}".encode(), hashlib.sha256).hexdigest()
