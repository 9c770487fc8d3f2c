"""Pushes events with PyPI's cloudevents and standardwebhooks: reads a list of {url, event, mode, token} and of {url, id, secret, data,
age} from standard input, and prints a list of statuses."""

import json
import sys
import time
from datetime import datetime, timezone

import requests
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks.webhooks import Webhook

statuses = []
for wanted in json.load(sys.stdin):
    if "event" in wanted:
        event = CloudEvent(wanted["event"]["attributes"], wanted["event"].get("data"))
        message = to_binary_event(event) if wanted["mode"] == "binary" else to_structured_event(event)
        headers, body = dict(message.headers), message.body
        headers["authorization"] = f"Bearer {wanted['token']}"
    else:
        signed_at = datetime.fromtimestamp(int(time.time()) - wanted.get("age", 0), tz=timezone.utc)
        body = wanted["data"]
        headers = {
            "webhook-id": wanted["id"],
            "webhook-timestamp": str(int(signed_at.timestamp())),
            "webhook-signature": Webhook(wanted["secret"]).sign(wanted["id"], signed_at, body),
        }
    statuses.append(requests.post(wanted["url"], data=body, headers=headers).status_code)
print(json.dumps(statuses))
