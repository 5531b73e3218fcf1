"""Values that the middleware keeps in a request's scope: the name of the key, and the room that its body takes."""

from __future__ import annotations

from typing import Protocol

from starlette.types import Scope

NO_KEY = ""
"""The name under which requests without a key are counted; no key can have it."""

_KEY_NAME = "bloomery.key_name"
_RESERVATION = "bloomery.reservation"


class BodyReservation(Protocol):
    """The room that an admitted request's body takes."""

    def add_bytes(self, count: int) -> None:
        """Take room for more bytes.

        Raises:
            RequestError: 429, there is none.
        """


def keep_key_name(scope: Scope, name: str) -> None:
    """Keep the name of the key that let a request in."""
    scope[_KEY_NAME] = name


def key_name(scope: Scope) -> str:
    """Return the name of the key that let a request in, or NO_KEY."""
    return str(scope.get(_KEY_NAME, NO_KEY))


def keep_reservation(scope: Scope, reservation: BodyReservation) -> None:
    """Keep the room that a request's body takes."""
    scope[_RESERVATION] = reservation


def reserve_bytes(scope: Scope, count: int) -> None:
    """Take room for bytes that a request's body has beside those that arrived: it was packed.

    Raises:
        RequestError: 429, there is none.
    """
    reservation: BodyReservation = scope[_RESERVATION]
    reservation.add_bytes(count)
