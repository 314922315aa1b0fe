"""Ray Serve with one application: `python rayserve_doubling.py PORT METRICS_PORT TEMPORARY_FOLDER`.

Two requests at once, one more waits, further ones are rejected; a request ends after 5 seconds.
Writes the file "ready" when the application is: its proxy responds before, and counts requests.
"""

# Its libraries are in a separate environment:
# mypy: ignore-errors
import signal
import sys
from pathlib import Path

import ray
from doubling import BadNumber, double
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from ray import serve

app = FastAPI()


class Numbers(BaseModel):
    numbers: list[float] = Field(max_length=4)
    stream: bool = False


@serve.deployment(max_ongoing_requests=2, max_queued_requests=1, ray_actor_options={"num_cpus": 0})
@serve.ingress(app)
class Doubling:
    @app.post("/double")
    async def predict(self, request: Numbers):
        if request.stream:
            return StreamingResponse(self.pieces(request.numbers), media_type="text/event-stream")
        try:
            return {"numbers": [await double(number) for number in request.numbers]}
        except BadNumber as error:
            raise HTTPException(400, str(error)) from None

    async def pieces(self, numbers):
        for number in numbers:
            yield f"data: {await double(number)}\n\n"


port, metrics_port, folder = sys.argv[1:]
ray.init(
    num_cpus=2,
    object_store_memory=80 << 20,
    include_dashboard=False,
    _metrics_export_port=int(metrics_port),
    _temp_dir=folder,
    _system_config={"metrics_report_interval_ms": 500},
)
serve.start(http_options={"host": "127.0.0.1", "port": int(port), "request_timeout_s": 5})
serve.run(Doubling.bind(), name="doubling", route_prefix="/")
Path("ready").touch()
signal.pause()
