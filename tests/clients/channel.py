"""Opens a WebSocket channel with PyPI's websockets. Argument: the URL. Sends each line of standard input as a text; prints a JSON line
with "open", for each message the parsed message, and at the end the close code and reason, or the status of a refusal."""

import asyncio
import json
import sys

import websockets
from websockets.asyncio.client import connect


def show(*line):
    print(json.dumps(line), flush=True)


async def send_lines(socket):
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await socket.send(line.rstrip("\n"))


async def main():
    try:
        async with connect(sys.argv[1]) as socket:
            show("open")
            sending = asyncio.create_task(send_lines(socket))
            try:
                async for message in socket:
                    show("message", json.loads(message))
            except websockets.ConnectionClosed:
                pass
            sending.cancel()
            show("closed", socket.close_code, socket.close_reason)
    except websockets.InvalidStatus as error:
        show("refused", error.response.status_code, json.loads(error.response.body))


asyncio.run(main())
