#!/usr/bin/env python3
"""Measures the memory that the Linux kernel takes for an idle stream, on the side of the server.

benches/scaling/kernel_memory.py target/debug/tallycast [CONNECTIONS]

Opens streams of a namespace without messages at `tallycast demo`, and prints the growth of the slab caches for each connection. Needs
root for /proc/slabinfo, and an otherwise idle machine. The build does not matter. The client opens its sockets without epoll.
"""

import re
import resource
import socket
import subprocess
import sys
import threading
import time

# Objects of a connection at the server's end. Client and server have the same socket, and are on the same machine, so the growth of
# the first six is twice as large. The kernel merges caches of the same size: the one of eventpoll_epi also has the client's local
# port, and in the one of anon_vma_chain is what epoll waits with.
SERVER = ["TCP", "sock_inode_cache", "dentry", "filp", "lsm_inode_cache", "lsm_file_cache", "eventpoll_epi", "anon_vma_chain", "ep_head"]
# What a list of the descriptors of a process in /proc leaves in caches for each, until the kernel needs the memory.
LISTED = ["proc_inode_cache", "dentry", "lsm_inode_cache"]
# Ports of one client address.
PORTS = 20_000


def slabs():
    """Objects in use, and bytes of an object, by cache."""
    with open("/proc/slabinfo") as file:
        rows = [line.split() for line in file.read().splitlines()[2:]]
    return {row[0]: (int(row[1]), int(row[3])) for row in rows}


def start(program):
    command = [program, "demo", "--rate", "1", "--port", "0", "--address", "0.0.0.0", "--keep-alive", "10m"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if serving := re.search(r"serving address=0\.0\.0\.0:(\d+)", line):
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return server, int(serving[1])
    sys.exit("the server did not start")


def connect(port, number):
    stream = socket.create_connection((f"127.0.0.{2 + number // PORTS}", port))
    stream.sendall(b"GET /subscribe/none HTTP/1.1\r\nhost: localhost\r\n\r\n")
    stream.recv(4096)
    return stream


def main():
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 15_000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server, port = start(sys.argv[1])
    try:
        # What only the first connections take.
        for stream in [connect(port, number) for number in range(200)]:
            stream.close()
        time.sleep(3)
        before = slabs()
        streams = [connect(port, number) for number in range(count)]
        time.sleep(8)
        after = slabs()
    finally:
        server.terminate()
        server.wait()
    print(f"{len(streams)} connections; growth of caches for each, both ends:")
    for name, (objects, size) in after.items():
        growth = (objects - before.get(name, (0, 0))[0]) / count
        if growth > 0.2:
            print(f"{name:>20} {growth:5.2f} x {size:5} B{' <' if name in SERVER else ''}")
    print(f"server: {sum(after[name][1] for name in SERVER if name in after)} B, one of each <")
    print(f"listed in /proc: {sum(after[name][1] for name in LISTED if name in after)} B more, reclaimable")
    print(f"entry of conntrack: {after.get('nf_conntrack', (0, 0))[1]} B")


main()
