"""A runtime of MLServer, named in model-settings.json."""

# Its libraries are in a separate environment:
# mypy: ignore-errors
from doubling import BadNumber, double
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse


class Doubling(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        numbers = NumpyCodec.decode_input(payload.inputs[0])
        try:
            doubled = [await double(float(number)) for number in numbers]
        except BadNumber as error:
            raise InferenceError(str(error)) from None
        output = payload.inputs[0].model_copy(update={"name": "doubled", "data": doubled})
        return InferenceResponse(model_name=self.name, outputs=[output.model_dump()])
