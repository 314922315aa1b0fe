"""The wine service: FastAPI, a scikit-learn model, and everything about it on /metrics.

    MODEL=model.joblib uvicorn service:app --port 8080

POST /predict takes the features of a wine, and an optional id; POST /truth takes the id and the
quality that a taster gave it later.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import joblib
import numpy as np
from fastapi import FastAPI
from prometheus_client import Gauge, Histogram, Info
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel

# truth.py is beside this folder in the repository, and in this folder in the image.
sys.path.append(str(Path(__file__).resolve().parent.parent))
from truth import Truths

FEATURES = {
    "alcohol": (8.0, 15.0),
    "volatile_acidity": (0.1, 1.2),
    "sulphates": (0.3, 1.5),
    "residual_sugar": (0.5, 15.0),
    "ph": (2.8, 4.0),
}

app = FastAPI(title="Wine quality")
trained = joblib.load(os.environ.get("MODEL", "model.joblib"))
OUTPUT = Histogram(
    "wine_quality_prediction",
    "Predicted quality of the wine, 0 to 10.",
    buckets=[step / 2 for step in range(21)],
)
Info("wine_model", "The model.").info(
    {"version": trained["version"], "algorithm": "ridge regression"}
)
Gauge(
    "wine_model_holdout_absolute_error",
    "Mean absolute error of the wines that the model was not trained with.",
).set(trained["error"])
truths = Truths("wine", features=FEATURES)


class Wine(BaseModel):
    """The features of a wine. id: needed to report its quality later."""

    alcohol: float
    volatile_acidity: float
    sulphates: float
    residual_sugar: float
    ph: float
    id: str | None = None


class Truth(BaseModel):
    """The quality that a taster gave a wine."""

    id: str
    quality: float


@app.get("/healthcheck")
def healthcheck() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/predict")
def predict(wine: Wine) -> dict[str, float]:
    features = wine.model_dump(exclude={"id"})
    row = np.array([[features[name] for name in FEATURES]])
    quality = float(np.clip(trained["model"].predict(row)[0], 0, 10))
    OUTPUT.observe(quality)
    truths.predicted(wine.id, quality, features)
    return {"quality": quality}


@app.post("/truth")
def truth(truth: Truth) -> dict[str, bool]:
    return {"known": truths.learned(truth.id, truth.quality)}


Instrumentator(
    should_group_status_codes=False,
    should_instrument_requests_inprogress=True,
    inprogress_labels=True,
    excluded_handlers=["/metrics"],
).instrument(app).expose(app)
