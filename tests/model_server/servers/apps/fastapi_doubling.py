"""FastAPI with prometheus-fastapi-instrumentator: `python fastapi_doubling.py PORT`."""

# Its libraries are in a separate environment:
# mypy: ignore-errors
import sys

import uvicorn
from doubling import BadNumber, double
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel, Field

app = FastAPI()


class Numbers(BaseModel):
    numbers: list[float] = Field(max_length=4)
    stream: bool = False


@app.get("/health")
def health():
    return {"status": "ok"}


@app.post("/double")
async def predict(request: Numbers):
    if request.stream:
        return StreamingResponse(pieces(request.numbers), media_type="text/event-stream")
    try:
        return {"numbers": [await double(number) for number in request.numbers]}
    except BadNumber as error:
        raise HTTPException(400, str(error)) from None


async def pieces(numbers):
    for number in numbers:
        yield f"data: {await double(number)}\n\n"


Instrumentator(excluded_handlers=["/metrics"]).instrument(app).expose(app)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
