"""Log-ins of the page: a signed cookie, and the token that every action must carry."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass

from medseg.node.clock import Clock
from medseg.node.web.accounts import Account, Accounts

_ENDED_MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A log-in: who, since when, and the random text that tells it apart."""

    account: Account
    issued_at: int
    nonce: str


class Sessions:
    """Makes and checks cookies.

    The key of a cookie depends on the account's token, so a new token ends the sessions of the old one; sessions
    outlive a restart, and nodes with one folder know each other's.

    Parameters
    ----------
    accounts : Accounts
    secret : bytes
        Of the node.
    lasts_s : float
        How long a session lasts.
    clock : Clock
    """

    def __init__(self, accounts: Accounts, *, secret: bytes, lasts_s: float, clock: Clock) -> None:
        self._accounts, self._secret, self._clock = accounts, secret, clock
        self.lasts_s = lasts_s
        self._ended: dict[str, float] = {}
        self._lock = threading.Lock()

    def begin(self, account: Account) -> tuple[Session, str]:
        """A new session and the value of its cookie."""
        session = Session(account=account, issued_at=int(self._clock.now()), nonce=secrets.token_urlsafe(18))
        text = f"{account.name}|{session.issued_at}|{session.nonce}"
        signature = self._sign(account, "session", text)
        return session, f"{base64.urlsafe_b64encode(text.encode()).decode()}.{signature}"

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None where it is forged, old, ended, or of nobody."""
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
        # A clock that was set back must not make a session last longer than it may.
        age = self._clock.now() - issued_at
        if not -60.0 <= age <= self.lasts_s or nonce in self._ended:
            return None
        return Session(account=account, issued_at=issued_at, nonce=nonce)

    def end(self, session: Session) -> None:
        """Let a session's cookie be worth nothing from now on."""
        now = self._clock.now()
        with self._lock:
            self._ended = {nonce: at for nonce, at in self._ended.items() if at + self.lasts_s > now}
            if len(self._ended) >= _ENDED_MOST:
                del self._ended[next(iter(self._ended))]
            self._ended[session.nonce] = now

    def form_token(self, session: Session) -> str:
        """What a form of this session must carry, so that no other site can send it."""
        return self._sign(session.account, "form", session.nonce)

    def is_form_token(self, session: Session, token: str) -> bool:
        """Whether a form is of this session."""
        return hmac.compare_digest(self.form_token(session).encode(), token.encode("utf-8", "replace"))

    def _sign(self, account: Account, use: str, text: str) -> str:
        key = hmac.digest(self._secret, b"medseg session " + account.digest, hashlib.sha256)
        return hmac.new(key, f"{use}|{text}".encode(), hashlib.sha256).hexdigest()
