"""Typical model service: FastAPI with prometheus-fastapi-instrumentator.

Runs in the environment that tests/upstream/install.sh creates: `python wine_service.py PORT`.
"""

# Its libraries are in a separate environment:
# mypy: ignore-errors
import sys

import uvicorn
from fastapi import FastAPI
from prometheus_client import Histogram
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel

app = FastAPI()
OUTPUT = Histogram(
    "regression_model_output",
    "Predicted quality of the wine.",
    buckets=[step / 2 for step in range(21)],
)


class Wine(BaseModel):
    alcohol: float


@app.get("/healthcheck")
def healthcheck() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/predict")
def predict(wine: Wine) -> dict[str, float]:
    quality = wine.alcohol / 2
    OUTPUT.observe(quality)
    return {"quality": quality}


Instrumentator(
    should_instrument_requests_inprogress=True, excluded_handlers=["/metrics"]
).instrument(app).expose(app)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
