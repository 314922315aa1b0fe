"""BentoML: `bentoml serve bentoml_doubling:Doubling`."""

# Its libraries are in a separate environment:
# mypy: ignore-errors
from collections.abc import AsyncGenerator

import bentoml
from bentoml.exceptions import BadInput
from doubling import BadNumber, double


@bentoml.service(traffic={"timeout": 4, "max_concurrency": 2})
class Doubling:
    @bentoml.api
    async def double(self, number: float) -> float:
        try:
            return await double(number)
        except BadNumber as error:
            raise BadInput(str(error)) from None

    @bentoml.api
    async def stream(self, numbers: list[float]) -> AsyncGenerator[str, None]:
        for number in numbers:
            yield f"{await double(number)}\n"
