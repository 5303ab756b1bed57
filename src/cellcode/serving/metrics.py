"""What /metrics counts; nothing in it distinguishes users or photos."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("cellcode_requests", "Requests by route and status", ["route", "status"], registry=own)
        self.seconds = Histogram(
            "cellcode_request_seconds", "Time of requests", ["route"], buckets=SECONDS, registry=own
        )
        self.photos = Counter("cellcode_photos", "Photos answered, or by code of the error", ["outcome"], registry=own)
        self.batches = Histogram(
            "cellcode_encoder_batch_photos", "Photos in one encoder call", buckets=SIZES, registry=own
        )
        self.working = Gauge("cellcode_requests_at_work", "Requests with photos, not answered yet", registry=own)
        self.waiting = Gauge("cellcode_photos_waiting", "Photos that wait for the encoder", registry=own)
        self.cells = Gauge("cellcode_database_cells", "Cells of the database", registry=own)
        self.swaps = Counter("cellcode_database_swaps", "Replacements of the database", ["outcome"], registry=own)

    def text(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self.registry)
