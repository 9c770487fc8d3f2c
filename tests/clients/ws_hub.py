"""A client of ws-hub with PyPI's websockets, which connects again at the next node. Arguments: the URL at each node. Sends "hello" whenever
it has connected. Prints a JSON line for each connection, message and end."""

import json
import sys
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def show(*line):
    print(json.dumps(line), flush=True)


def read(url):
    with connect(url) as socket:
        show("open")
        socket.send("hello")
        try:
            for message in socket:
                show("text" if isinstance(message, str) else "binary", message)
            closed = socket.close_code, socket.close_reason
        except ConnectionClosed as error:
            closed = error.rcvd and error.rcvd.code, error.rcvd and error.rcvd.reason
        show("closed", *closed)


urls = sys.argv[1:]
while True:
    try:
        read(urls[0])
    except OSError:
        time.sleep(0.05)
    urls.append(urls.pop(0))
