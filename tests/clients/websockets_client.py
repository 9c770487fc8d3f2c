"""Reads a WebSocket with PyPI's websockets. Arguments: the URL, and the milliseconds that it takes for each message. Prints a JSON line when
it is open, for each message, with its kind, and at the end."""

import json
import sys
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def show(*line):
    print(json.dumps(line), flush=True)


url, milliseconds = sys.argv[1], int(sys.argv[2])
with connect(url, max_queue=1, compression=None) as socket:
    show("open")
    try:
        while True:
            message = socket.recv()
            show("text", message) if isinstance(message, str) else show("binary", message.decode())
            time.sleep(milliseconds / 1000)
    except ConnectionClosed as closed:
        show("closed", closed.rcvd and closed.rcvd.code, closed.rcvd and closed.rcvd.reason)
