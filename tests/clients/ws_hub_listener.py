"""Listens as the example of ws-hub does, with PyPI's redis: puts each client that connects into groups, and sends what it sends to one of
them. Arguments: the URL of the server, the groups, and the group that messages are sent to. Prints a JSON line when it listens, which it
does again after an outage, and for each message."""

import json
import sys
import time

import redis


def show(*line):
    print(json.dumps(line), flush=True)


def listen(server, groups, group):
    subscription = server.pubsub()
    subscription.subscribe("ws-hub:client-new", "ws-hub:client-gone")
    subscription.psubscribe("ws-hub:client-data:*")
    for message in subscription.listen():
        if message["type"] == "psubscribe":
            show("listening")
        if not message["type"].endswith("message"):
            continue
        channel, data = message["channel"].decode(), message["data"].decode()
        kind, _, key = channel.removeprefix("ws-hub:").partition(":")
        show(kind, key or data, data)
        if kind == "client-new":
            server.publish(f"ws-hub:groups-new:{data}", groups)
        elif kind == "client-data":
            server.publish(f"ws-hub:group-data:{group}", f"{key}: {data}")


url, groups, group = sys.argv[1:]
while True:
    try:
        listen(redis.Redis.from_url(url), groups, group)
    except redis.ConnectionError:
        time.sleep(0.05)
