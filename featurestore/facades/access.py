"""Who may do what, and who did: tokens, roles, the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featurestore.facades.opened import OpenRepository
from featurestore.timeline import to_us

if TYPE_CHECKING:
    from datetime import datetime

    from featurestore.permissions import Policy, TokenFacts


class AccessControl(OpenRepository):
    """The part of `FeatureStore` that gives and takes rights, for those who administer them."""

    def create_token(
        self, name: str, *, allow: Sequence[str], expires: str | None = None
    ) -> tuple[str, TokenFacts]:
        """A new bearer token, told only now, and what is kept of it. `allow`: grants and roles,
        `["read:shop/offer_model"]`; `expires`: `"30d"`. Raises `DuplicateName`, `InvalidRequest`,
        `PermissionDenied`."""
        from featurestore.jobs import access

        life_us = None if expires is None else access.duration_us(expires)
        return access.create_token(self._asker(), name, allow=allow, expires_in_us=life_us)

    def list_tokens(self) -> list[dict[str, Any]]:
        """The tokens, a dict each: name, allow, expiry, who made it when; never a secret."""
        from featurestore.jobs import access

        return access.list_tokens(self._asker())

    def revoke_token(self, name: str) -> None:
        """End a token; servers know within `reload_interval_ms`. Raises `RecordNotFound`."""
        from featurestore.jobs import access

        access.revoke_token(self._asker(), name)

    def set_role(self, role: str, grants: Sequence[str]) -> None:
        """Give a role these grants; with none it is gone. Raises `InvalidRequest`."""
        from featurestore.jobs import access

        access.set_role(self._asker(), role, grants)

    def set_access_control(self, on: bool) -> None:
        """Demand tokens from all who write to the registry or ask a server, or stop doing so.
        Raises `InvalidRequest` where our own token could not switch it off again."""
        from featurestore.jobs import access

        access.set_enforced(self._asker(), on)

    def access_policy(self) -> Policy:
        """Whether access control is on, the roles, the tokens."""
        from featurestore.jobs import access

        return access.read_policy(self.registry)

    def audit_log(
        self,
        *,
        since: datetime | str | int | None = None,
        denied: bool = False,
        newest: int | None = None,
    ) -> list[dict[str, Any]]:
        """Who did what, when, from where, allowed or denied: a dict each, oldest first."""
        from featurestore.jobs import access

        since_us = None if since is None else to_us(since)
        return access.audit_log(self._asker(), since_us=since_us, denied=denied, newest=newest)

    def prune_audit_log(self, older_than: str) -> int:
        """Delete the entries of the audit log that are older (`"90d"`, a day at least); returns how
        many. An entry says that it was done. Raises `InvalidRequest`, `PermissionDenied`."""
        from featurestore.jobs import access

        return access.prune_audit_log(self._asker(), older_than_us=access.duration_us(older_than))
