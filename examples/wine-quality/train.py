"""Trains the wine model: `python train.py FOLDER` writes model.joblib and predictions.csv.

The data are made here, by the formula below with noise, from a seed: no data set is downloaded, and
they are under this repository's licence (Apache-2.0). predictions.csv has the model's predictions
for the third of the wines that it was not trained with: the reference for drift.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

SEED = 7
WINES = 6000
# The lowest, highest and most frequent value of each feature; deploy/demo/load.py sends the same.
FEATURES = {
    "alcohol": (8.0, 15.0),
    "volatile_acidity": (0.1, 1.2),
    "sulphates": (0.3, 1.5),
    "residual_sugar": (0.5, 15.0),
    "ph": (2.8, 4.0),
}


def make_wines(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns features (count, 5) and qualities (count,), 0 to 10."""
    random = np.random.default_rng(seed)
    columns = [
        random.triangular(low, (low + high) / 2, high, count) for low, high in FEATURES.values()
    ]
    alcohol, acidity, sulphates, sugar, ph = columns
    quality = (
        5.5
        + 0.8 * (alcohol - 11.5)
        - 2.5 * (acidity - 0.65)
        + 1.5 * (sulphates - 0.9)
        - 0.01 * (sugar - 7.75) ** 2
        - 0.5 * np.abs(ph - 3.4)
        + random.normal(0, 0.5, count)
    )
    return np.column_stack(columns), np.clip(quality, 0, 10)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    x, y = make_wines(WINES, SEED)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=1 / 3, random_state=SEED)
    model = make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge())
    model.fit(x_train, y_train)
    predictions = np.clip(model.predict(x_test), 0, 10)
    error = float(mean_absolute_error(y_test, predictions))
    joblib.dump({"model": model, "error": error, "version": "1"}, folder / "model.joblib")
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["quality"])
        writer.writerows([round(float(value), 6)] for value in predictions)
    print(f"{len(y_train)} wines, mean absolute error {error:.3f} of {len(y_test)} others")


if __name__ == "__main__":
    main()
