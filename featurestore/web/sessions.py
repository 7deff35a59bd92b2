"""Who sits at a browser: sessions by cookie, sign-in by token, forms that only our pages send.

A cookie holds a random id and nothing else; what it means is kept here, in memory. Where access
control is off everybody acts as the process does, as on its command line. A form carries a mark
that is made of the session's id, so that a page of somebody else can't send it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock

from featurestore.errors import PermissionDenied
from featurestore.timeline import HOUR_US, Clock

COOKIE = "featurestore_session"
SESSIONS_MAX = 1_000
"""The oldest are forgotten first."""
SESSION_LIFE_US = 12 * HOUR_US


@dataclass(frozen=True, slots=True)
class Session:
    """`token` is empty until somebody signs in."""

    id: str
    until_us: int
    token: str = field(default="", repr=False)


class Sessions:
    """The sessions of one server. Safe to share between threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._lock = Lock()
        self._found = OrderedDict[str, Session]()

    def get(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None where it is unknown or over."""
        with self._lock:
            session = self._found.get(cookie or "")
            if session is not None and session.until_us <= self._clock.now_us():
                del self._found[session.id]
                return None
            return session

    def begin(self, token: str = "") -> Session:
        """A new session, under a new id."""
        until_us = self._clock.now_us() + SESSION_LIFE_US
        session = Session(secrets.token_urlsafe(32), until_us, token)
        with self._lock:
            while len(self._found) >= SESSIONS_MAX:
                self._found.popitem(last=False)
            self._found[session.id] = session
        return session

    def end(self, session: Session) -> None:
        """Forget a session."""
        with self._lock:
            self._found.pop(session.id, None)

    def mark(self, session: Session) -> str:
        """What the forms of this session carry."""
        return hmac.new(self._secret, session.id.encode(), hashlib.sha256).hexdigest()

    def check(self, session: Session, mark: str) -> None:
        """Raises `PermissionDenied` for a form that no page of this session has made."""
        if not hmac.compare_digest(self.mark(session).encode(), mark.encode()):
            raise PermissionDenied("This form is not of your session; load the page again")
