"""Reads the stream at the URL with PyPI's sseclient, which reconnects by itself, and prints the id and data of each event."""

import sys

import sseclient

for event in sseclient.SSEClient(sys.argv[1], retry=300):
    if event.event in ("message", "reset") and event.data:
        print(event.event, event.id, event.data, flush=True)
