"""While the disk is full, somebody has to look whether it still is."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from app.errors import NoSpace
from app.stores.sqlite import Database

PAUSE_SECONDS = 1.0


async def look_for_room(database: Database) -> None:
    """Without end; what waits for room goes on when it is found."""
    while True:
        await asyncio.sleep(PAUSE_SECONDS)
        if database.room.lacking:
            with suppress(NoSpace):
                await database.find_room()
