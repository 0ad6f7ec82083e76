"""The gateway: the one address that citizens know. It finds each kiosk in the registry and passes requests on.

`POST /email/apply` goes to an instance of `email-svc`, `POST /photo/upload` to one of `photo-svc`. A kiosk that isn't there costs its
own requests a 503; the others never notice.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from hms_spine import BreakerPolicy, CircuitOpen, NotFound, Unavailable, aio

#: The first part of the path, and the service behind it.
ROUTES = {"email": "email-svc", "photo": "photo-svc"}

#: Three failed calls, and a kiosk is left alone for two seconds: short, to be seen in a demonstration.
BREAKER = BreakerPolicy(failures=3, rest=2.0)


def gateway() -> FastAPI:
    """The application. Its resolvers keep the lists of kiosks, so that no request waits for the registry."""
    spine = aio.Spine()
    kiosks = {route: spine.resolver(name, breaker=BREAKER) for route, name in ROUTES.items()}
    # A kiosk may stop at any time: a connection that is kept could already be closed on its side.
    client = httpx.AsyncClient(timeout=5.0, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(client)
            for kiosk in kiosks.values():
                await stack.enter_async_context(kiosk)
            yield

    app = FastAPI(title="gateway", lifespan=lifespan)

    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"up": True}

    @app.post("/{route}/{path:path}")
    async def pass_on(route: str, path: str, request: Request) -> Response:
        if route not in kiosks:
            return JSONResponse({"error": f"no kiosk {route!r}"}, status_code=404)
        try:
            async with kiosks[route].call() as url:
                answer = await client.post(f"{url}/{path}", content=await request.body())
        except (CircuitOpen, NotFound, Unavailable, httpx.TransportError) as error:
            reason = f"{type(error).__name__}: {error}"
            return JSONResponse({"error": f"{ROUTES[route]} is closed: {reason}"}, status_code=503)
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    uvicorn.run(gateway(), host=options.host, port=options.port, log_level="info")


if __name__ == "__main__":
    main()
