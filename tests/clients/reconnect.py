"""Reads the stream at the URL with PyPI's requests-sse, which reconnects by itself, and prints name, id and data of each event."""

import sys
from datetime import timedelta

from requests_sse import EventSource

pause = timedelta(milliseconds=50)
with EventSource(sys.argv[1], reconnection_time=pause, max_connect_retry=12) as source:
    for event in source:
        if event.type in ("message", "reset"):
            print(event.type, event.last_event_id, event.data, flush=True)
