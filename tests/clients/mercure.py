"""Reads a stream of the Mercure protocol with PyPI's requests-sse, which reconnects by itself. Arguments: a token, and the URL of the
stream at each node. Prints a JSON line for each connection, with the id that it resumes at and the one that the hub starts at, and for
each event."""

import json
import sys
from datetime import timedelta

import requests
from requests_sse import EventSource


def show(*line):
    print(json.dumps(line), flush=True)


class Nodes(requests.Session):
    """Requests the URL at one node after the other, until one answers."""

    def __init__(self, urls):
        super().__init__()
        self.urls = urls

    def request(self, method, url, **options):
        try:
            response = super().request(method, self.urls[0], **options)
        except requests.ConnectionError:
            self.urls.append(self.urls.pop(0))
            raise
        show("connected", options["headers"].get("Last-Event-Id"), response.headers.get("last-event-id"))
        return response


token, *urls = sys.argv[1:]
pause = timedelta(milliseconds=50)
headers = {"authorization": f"Bearer {token}"}
with EventSource(urls[0], session=Nodes(urls), headers=headers, reconnection_time=pause, max_connect_retry=12) as source:
    for event in source:
        show(event.type, event.last_event_id, event.data)
