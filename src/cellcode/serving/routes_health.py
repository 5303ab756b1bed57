"""Routes for who runs the service."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from cellcode.serving import state
from cellcode.serving.schemas import Health

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Health:
    """Report that the process answers."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Health}}, response_model=Health)
async def readyz(request: Request) -> Response:
    """Report whether photos can be answered."""
    ready = state.of(request).holder.current is not None
    return JSONResponse({"status": "ok" if ready else "starting"}, status_code=200 if ready else 503)


@router.get(
    "/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}, response_class=Response
)
async def metrics(request: Request) -> Response:
    """Return counters in the Prometheus text format."""
    own = state.of(request)
    if (service := own.holder.current) is not None:
        own.metrics.waiting.set(service.encoder.waiting)
        own.metrics.cells.set(len(service.database.ids))
    return Response(own.metrics.text(), media_type="text/plain; version=0.0.4")
