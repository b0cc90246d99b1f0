"""Why a request is refused: an HTTP status, a reason for people, and when to try again."""

from __future__ import annotations

import math

__all__ = ["RefusalError"]


class RefusalError(Exception):
    """A request that gets no answer.

    Args:
        status: HTTP status.
        reason: what is wrong and what to do.
        retry_after: seconds after which a request may succeed; `None` if trying again does not help.
        by_browser: whether a browser asks, which sends a token as the password that it asks a person for.
    """

    def __init__(self, status: int, reason: str, retry_after: float | None = None, by_browser: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after
        self.by_browser = by_browser

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, and how to say who one is.

        >>> RefusalError(503, "busy", 0.2).headers
        {'Retry-After': '1'}
        """
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        way = 'Basic realm="fedrec", charset="UTF-8"' if self.by_browser else "Bearer"
        return headers | ({"WWW-Authenticate": way} if self.status == 401 else {})
