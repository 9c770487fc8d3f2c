#!/usr/bin/env python3
"""Measures the CPU time that Redis takes to send an event to one more node.

benches/scaling/redis_fanout.py [NODES...]

Starts a Redis, subscribes as often as there are nodes by a pattern, as tallycast does, and publishes payloads of 100 bytes for four
seconds: one at a time, so that every node is written to for each event, and 32 at once. Subscribers read and look at nothing.
"""

import os
import select
import socket
import subprocess
import sys
import tempfile
import time

SECONDS = 4


def command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def cpu_seconds(process):
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connect(port):
    for _ in range(100):
        try:
            stream = socket.create_connection(("127.0.0.1", port))
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return stream
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit("redis-server did not start")


def read_everything(port, nodes):
    """The subscribers, in a process of their own. Ends with Redis."""
    poll, streams, buffer = select.epoll(), {}, bytearray(256 * 1024)
    for _ in range(nodes):
        stream = connect(port)
        stream.sendall(command(b"PSUBSCRIBE", b"stream.*"))
        streams[stream.fileno()] = stream
        poll.register(stream.fileno(), select.EPOLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if streams[descriptor].recv_into(buffer) == 0:
                os._exit(0)


def subscribed(publisher, nodes):
    publisher.sendall(command(b"INFO", b"clients"))
    return f"connected_clients:{nodes + 1}\r".encode() in publisher.recv(65536)


def measure(nodes, batch):
    with socket.socket() as probe, tempfile.TemporaryDirectory() as directory:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        arguments = ["--port", str(port), "--save", "", "--dir", directory, "--client-output-buffer-limit", "pubsub 0 0 0"]
        redis = subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL)
        publisher = connect(port)
        readers = os.fork()
        if readers == 0:
            read_everything(port, nodes)
        while not subscribed(publisher, nodes):
            time.sleep(0.05)
        events = command(b"PUBLISH", b"stream.score_updates", b"x" * 100) * batch
        published, used, started = 0, cpu_seconds(redis.pid), time.monotonic()
        while (elapsed := time.monotonic() - started) < SECONDS:
            publisher.sendall(events)
            answers = 0
            while answers < batch:
                answers += publisher.recv(65536).count(b"\n")
            published += batch
        used = cpu_seconds(redis.pid) - used
        redis.terminate()
        redis.wait()
        os.waitpid(readers, 0)
    each = used / published * 1e6
    print(
        f"{nodes:>4} nodes, {batch:>2} at once: {published / elapsed:>7.0f} events/s, {used / elapsed:.2f} cores of Redis, "
        f"{each:.2f} us an event, {each / nodes:.3f} us an event and node"
    )


for nodes in map(int, sys.argv[1:] or ["1", "10", "50", "100"]):
    for batch in (1, 32):
        measure(nodes, batch)
