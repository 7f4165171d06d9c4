"""The web application: `/healthz`, `/readyz` and `/metrics`, none of them with patient data."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pacs.errors import OutOfResources
from pacs.web.insight import Insight

Result = TypeVar("Result")

NO_STORE = {"Cache-Control": "no-store"}


def application(insight: Insight) -> Starlette:
    """Return the web application."""
    routes = [
        Route("/healthz", _healthz),
        Route("/readyz", _Readyz(_SharedCall(insight.reasons)).get),
    ]
    if insight.metrics is not None:
        routes.append(Route("/metrics", _Metrics(_SharedCall(insight.metrics)).get))
    return Starlette(routes=routes, exception_handlers={OutOfResources: _unavailable})


async def _healthz(_request: Request) -> Response:
    """Respond 200: the process and its event loop run."""
    return PlainTextResponse("ok\n", headers=NO_STORE)


async def _unavailable(_request: Request, error: Exception) -> Response:
    """Respond 503 with the reason, as `/readyz` does: no thread can be started to look for others."""
    content = {"ready": False, "reasons": {"threads": str(error)}}
    return JSONResponse(content, status_code=503, headers=NO_STORE)


async def _in_thread(function: Callable[[], Result]) -> Result:
    """Run a function in a thread and return its result. Raises OutOfResources."""
    try:
        return await asyncio.to_thread(function)
    except RuntimeError as error:  # of the thread pool; the functions raise none
        raise OutOfResources("The server cannot start another thread") from error


class _Readyz:
    """Responds 200 if the archive is ready, else 503 with the reasons."""

    def __init__(self, readiness: "_SharedCall[Mapping[str, str]]") -> None:
        self._readiness = readiness

    async def get(self, _request: Request) -> Response:
        reasons = dict(await self._readiness.result())
        content = {"ready": not reasons, "reasons": reasons}
        return JSONResponse(content, status_code=503 if reasons else 200, headers=NO_STORE)


class _Metrics:
    """Responds with the metrics in the text format of Prometheus."""

    def __init__(self, metrics: "_SharedCall[tuple[bytes, str]]") -> None:
        self._metrics = metrics

    async def get(self, _request: Request) -> Response:
        text, media_type = await self._metrics.result()
        return Response(text, media_type=media_type, headers=NO_STORE)


class _SharedCall(Generic[Result]):
    """A slow function that runs at most once at a time; requests that arrive meanwhile share its result.

    A client that disconnects does not cancel it for the others.
    """

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._running: asyncio.Task[Result] | None = None

    async def result(self) -> Result:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(_in_thread(self._function))
        return await asyncio.shield(self._running)
