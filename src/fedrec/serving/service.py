"""What a server holds: the model, what users did since, the log of events, and whose turn it is."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from fedrec.data.databases.logs import open_events, read_events
from fedrec.data.events import Event
from fedrec.errors import FedrecError
from fedrec.recommending.exploring import Exploration
from fedrec.serving.figures import Figures
from fedrec.serving.model import ServedModel
from fedrec.serving.recent import Recent
from fedrec.serving.refusals import RefusalError
from fedrec.serving.turns import Turns
from fedrec.serving.writer import EventWriter
from fedrec.threads import held_threads

__all__ = ["Service"]

_LOG = logging.getLogger("fedrec.serving")
_LOOK = 1.0
"""Seconds between two looks for a newer model."""
_AHEAD = 86_400.0
"""Seconds that the time of an event may lie ahead of the server's clock."""


class Service:
    """A server without its network.

    Args:
        folder: a run, or a link to one; a newer run there replaces the model.
        events: path or URL of the log; `None` keeps no events.
        most_waiting: requests that may wait for their turn.
        deadline: seconds that a request may wait.
        threads: for kernels; `None` for as many as the process has.
        explore: how lists are drawn; `None` shows the best items.

    Raises:
        FedrecError: if the run or the log cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        events: str | None = None,
        most_waiting: int = 64,
        deadline: float = 1.0,
        threads: int | None = None,
        explore: Exploration | None = None,
    ) -> None:
        self.folder, self.events = folder, events
        self._threads = threads
        self.explore = explore
        self._version = _version(folder)
        self.model = ServedModel.load(folder)
        self.recent = Recent()
        self.writer: EventWriter | None = None
        if events is not None:
            log = open_events(events, self.model.opened.data.users.is_text, self.model.catalog.items.is_text)
            self.writer = EventWriter(log)
            self.recent = Recent.from_table(read_events(events))
        self.turns = Turns(most_waiting, deadline)
        self.figures = Figures(self.turns.__len__)
        self.figures.model(self.model.name, self.model.digest)
        self.ending = False

    @property
    def ready(self) -> str | None:
        """Why requests should go elsewhere; `None` if the server is ready."""
        if self.ending:
            return "the server is ending"
        return "events cannot be written" if self.writer is not None and not self.writer.works else None

    async def add(self, events: Sequence[Event]) -> int:
        """Keep events, and let answers follow them; how many were new.

        Raises:
            RefusalError: if this server keeps no events, an event is of the future, or they cannot be written.
        """
        latest = time.time() + _AHEAD
        if any(event.at > latest for event in events):
            raise RefusalError(
                422, "at: an event is more than a day ahead of the server's clock; send seconds since 1970"
            )
        new = await self._writer().add(events)
        self.recent.add(new)
        self.figures.events.labels("first").inc(len(new))
        self.figures.events.labels("again").inc(len(events) - len(new))
        return len(new)

    async def forget(self, user: int | str) -> int:
        """Remove what is known of a user; how many events there were.

        Raises:
            RefusalError: if this server keeps no events, nothing is known of the user, or it cannot be written.
        """
        writer = self._writer()
        if self.model.profiles.known(user, self.recent) is None:
            raise RefusalError(404, "nothing is known of this user")
        removed = await writer.forget(user, time.time())
        self.recent.forget(user)
        return removed

    async def watch(self) -> None:
        """Replace the model by a newer one whenever there is one, for ever."""
        while True:
            await asyncio.sleep(_LOOK)
            await self.renew()

    async def renew(self) -> bool:
        """Load the run anew if it is another one now; requests are answered by the model before meanwhile.

        Returns:
            Whether there is a new model. A run that cannot be opened is left, and looked at again when it changes.
        """
        version = _version(self.folder)
        if version is None or version == self._version:
            return False
        self._version = version
        try:
            model = await asyncio.to_thread(self._load)
        except (FedrecError, OSError, ValueError) as error:
            _LOG.warning("%s: the newer model is not used, and the one before answers: %s", self.folder, error)
            self.figures.swaps.labels("refused").inc()
            return False
        self.model = model
        self.figures.model(model.name, model.digest)
        self.figures.swaps.labels("taken").inc()
        _LOG.info("model %s answers now", model.digest)
        return True

    def close(self) -> None:
        """Write what waits, and end."""
        if self.writer is not None:
            self.writer.close()

    def _load(self) -> ServedModel:
        with held_threads(self._threads):
            model = ServedModel.load(self.folder)
        before = self.model
        alike = model.catalog.items.is_text == before.catalog.items.is_text
        if not alike or model.opened.data.users.is_text != before.opened.data.users.is_text:
            raise FedrecError("its ids are of another type than those of the model before; start a server of its own")
        return model

    def _writer(self) -> EventWriter:
        if self.writer is None:
            raise RefusalError(404, "this server keeps no events; start it with --events")
        return self.writer


def _version(folder: Path) -> tuple[str, int, int] | None:
    """What changes when a run is replaced; `None` while there is no model."""
    place = os.path.realpath(folder)
    try:
        status = os.stat(os.path.join(place, "model", "model.json"))
    except OSError:
        return None
    return place, status.st_ino, status.st_mtime_ns
