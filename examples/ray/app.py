"""A small Serve application: greets whoever asks, and says which replica did."""

import os

from ray import serve


@serve.deployment
class Greeter:
    async def __call__(self, request):
        name = request.query_params.get("name", "world")
        return f"hello {name} from process {os.getpid()}\n"


app = Greeter.bind()
