"""A kiosk: one small service that tells the registry where it is for as long as it runs.

It repeats its registration every 10 s. If it is stopped in order it takes itself out; if it dies, the repeats stop and
the registry takes it out (`spine dev` after 30 s).
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from hms_spine import aio


def kiosk(name: str, url: str) -> FastAPI:
    """The service `name`, reached by others at `url`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with aio.Spine().serving(name, url, check=False):
            yield

    app = FastAPI(title=name, lifespan=lifespan)

    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"up": True}

    @app.post("/{request:path}")
    def take(request: str) -> dict[str, object]:
        # Pretends to send the mail, or to store the photo.
        return {"kiosk": name, "pid": os.getpid(), "request": request, "status": "queued"}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--url", help="where others reach it; http://HOST:PORT if not given")
    options = parser.parse_args()
    url = options.url or f"http://{options.host}:{options.port}"
    # First the port, then the registration: who finds the kiosk before it is ready waits, and is not refused.
    with socket.create_server((options.host, options.port), backlog=128) as listener:
        server = uvicorn.Server(uvicorn.Config(kiosk(options.name, url), log_level="info"))
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
