"""A small Serve application for the tests: says its word and its mark, and logs what it is asked."""

import logging
import os

from ray import serve

logger = logging.getLogger("ray.serve")


@serve.deployment
class Tiny:
    def __init__(self, word="hello"):
        self.word = word

    def reconfigure(self, config):
        self.word = config.get("word", self.word)

    async def __call__(self, request):
        logger.info("said %s", self.word)
        return f"{self.word} {os.environ.get('AGENT_GUID', '-')} {os.getpid()}"


def build(args):
    return Tiny.bind(args.get("word", "hello"))
