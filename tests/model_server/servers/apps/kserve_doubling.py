"""KServe: `python kserve_doubling.py --http_port PORT --enable_grpc false`."""

# Its libraries are in a separate environment:
# mypy: ignore-errors
import functools

import uvicorn
from doubling import BadNumber, double
from kserve import Model, ModelServer
from kserve.errors import InvalidInput

# KServe listens on 0.0.0.0 and has no setting for the address.
listen = uvicorn.Config.__init__


@functools.wraps(listen)
def listen_on_loopback(self, app, **arguments):
    listen(self, app, **{**arguments, "host": "127.0.0.1"})


uvicorn.Config.__init__ = listen_on_loopback


class Doubling(Model):
    def __init__(self):
        super().__init__("doubling")
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        try:
            return {"predictions": [await double(number) for number in payload["instances"]]}
        except BadNumber as error:
            raise InvalidInput(str(error)) from None


ModelServer().start([Doubling()])
