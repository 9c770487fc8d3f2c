"""A backend of the contract of unifrost: PyPI's requests changes subscriptions, and PyPI's redis publishes. Reads a list of {url, update}
and {redis, channel, payload} from standard input, and prints a list of [status, body], or of the number of subscribers."""

import json
import sys

import redis
import requests

answers = []
for wanted in json.load(sys.stdin):
    if "url" in wanted:
        response = requests.post(wanted["url"], json=wanted["update"])
        answers.append([response.status_code, response.json() if response.ok else response.text])
    else:
        answers.append(redis.Redis.from_url(wanted["redis"]).publish(wanted["channel"], wanted["payload"]))
print(json.dumps(answers))
