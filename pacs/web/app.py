"""What is answered over HTTP: `/healthz`, `/readyz` and `/metrics`, and 404 to everything else.

None of these has patient data. `/explain` has, and is not found unless the configuration has requests explained.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pacs.web.insight import Insight

Result = TypeVar("Result")

NOT_KEPT = {"Cache-Control": "no-store"}
"""Each answer is that of a moment."""


def application(insight: Insight) -> Starlette:
    """The application that answers."""
    readiness = _Shared(insight.reasons)
    explain = _Explain(_Shared(insight.explanations))
    routes = [
        Route("/healthz", _healthz),
        Route("/readyz", _Readyz(readiness).get),
        Route("/explain", explain.all),
        Route("/explain/{number:int}", explain.one),
    ]
    if insight.metrics is not None:
        routes.append(Route("/metrics", _Metrics(_Shared(insight.metrics)).get))
    return Starlette(routes=routes)


async def _healthz(_request: Request) -> Response:
    """The process lives, and its loop runs: that is all this says."""
    return PlainTextResponse("ok\n", headers=NOT_KEPT)


class _Readyz:
    """Whether work can be done: 200, or 503 with the reasons."""

    def __init__(self, readiness: "_Shared[Mapping[str, str]]") -> None:
        self._readiness = readiness

    async def get(self, _request: Request) -> Response:
        reasons = dict(await self._readiness.result())
        answer = {"ready": not reasons, "reasons": reasons}
        return JSONResponse(answer, status_code=503 if reasons else 200, headers=NOT_KEPT)


class _Metrics:
    """The numbers, for Prometheus."""

    def __init__(self, metrics: "_Shared[tuple[bytes, str]]") -> None:
        self._metrics = metrics

    async def get(self, _request: Request) -> Response:
        text, media_type = await self._metrics.result()
        return Response(text, media_type=media_type, headers=NOT_KEPT)


class _Explain:
    """The last explanations, and one of them by its number."""

    def __init__(self, explanations: "_Shared[Sequence[Mapping[str, Any]] | None]") -> None:
        self._explanations = explanations

    async def all(self, _request: Request) -> Response:
        return JSONResponse(await self._found(), headers=NOT_KEPT)

    async def one(self, request: Request) -> Response:
        number = request.path_params["number"]
        for each in await self._found():
            if each["number"] == number:
                return JSONResponse(each, headers=NOT_KEPT)
        raise HTTPException(404)

    async def _found(self) -> list[Mapping[str, Any]]:
        """The explanations. Raises HTTPException where there are none to be had."""
        found = await self._explanations.result()
        if found is None:
            raise HTTPException(404)
        return list(found)


class _Shared(Generic[Result]):
    """A function that takes time, run in one thread for all who ask while it runs: many who ask cost no more than one.

    Nobody who goes away takes the answer from the others.
    """

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._running: asyncio.Task[Result] | None = None

    async def result(self) -> Result:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(asyncio.to_thread(self._function))
        return await asyncio.shield(self._running)
