#!/usr/bin/env python3
"""Computes the tables of docs/scaling.md from measured figures.

benches/scaling/model.py            writes the tables
benches/scaling/model.py --check    fails if the page differs

Reads measured.toml beside it, docs/measurements/runs.jsonl, and the bounds of memory in docs/configuration.md. The page explains the
formulae, which are the functions of `Node` and `tree` here. What is chosen and not measured is in the constants at the top.
"""

import dataclasses
import json
import math
import pathlib
import re
import sys

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/scaling.md"
NOT_MEASURED = "not measured"
GIB, MIB = 1024**3, 1024**2

# Chosen: the part of a resource that is planned for.
CPU, MEMORY, NETWORK = 0.6, 0.7, 0.6
# Seconds: between a client and its node and back; how long a busy node may collect messages into one write.
ROUND_TRIP, WINDOW = 0.1, 0.1
# Seconds, and bytes, of keep-alives: a comment in a chunk.
KEEP_ALIVE, KEEP_ALIVE_BYTES = 15, 8
# fs.nr_open of Linux, the most descriptors of a process, and the ports of a client address by net.ipv4.ip_local_port_range.
DESCRIPTORS, PORTS = 1_048_576, 28_232
# The readers of a node that is lost come back to the others: by choice no more than these.
MOST_READERS = 250_000
AUDIENCES = [100_000, 1_000_000, 100_000_000]
# Nodes that a broker or a relay feeds in the examples of trees.
FAN_OUT = 64
# Seconds from one level of a tree to the next, one way.
HOP = 0.02
# The figures of a broker in measured.toml.
FIELDS = ["ingest", "node", "node_batched"]


@dataclasses.dataclass(frozen=True)
class Machine:
    title: str
    cores: int
    memory: int
    bits: float


@dataclasses.dataclass(frozen=True)
class Workload:
    title: str
    rate: float
    payload: int = 100


SMALL = Machine("2 cores, 4 GiB, 1 Gbit/s", 2, 4 * GIB, 1e9)
MEDIUM = Machine("8 cores, 16 GiB, 10 Gbit/s", 8, 16 * GIB, 10e9)
LARGE = Machine("32 cores, 64 GiB, 25 Gbit/s", 32, 64 * GIB, 25e9)
IDLE = Workload("1 message a minute", 1 / 60)
QUIET = Workload("1 message/s", 1)
CHATTY = Workload("20 messages/s", 20)
BUSY = Workload("500 messages/s", 500)


class Measured:
    """The figures of measured.toml. One without a value is None."""

    def __init__(self):
        self.figures = tomllib.loads((ROOT / "benches/scaling/measured.toml").read_text())
        lines = (ROOT / "docs/measurements/runs.jsonl").read_text().splitlines()
        self.records = {record["workload"]: record for record in map(json.loads, lines)}
        self.options = dict(re.findall(r"^\| `--([a-z-]+)` \| `\w+` \| `(\w+)` \|", (ROOT / "docs/configuration.md").read_text(), re.M))

    def __call__(self, *path):
        figure = self.figures
        for name in path:
            figure = figure[name]
        if "record" not in figure:
            return figure.get("value")
        workload, subject, field = figure["record"]
        try:
            record = self.records[workload]
            return record["subjects"][subject][field] / (record["connections"] if figure.get("each") else 1)
        except KeyError as error:
            sys.exit(f"measured.toml, {'.'.join(path)}: docs/measurements/runs.jsonl has no {error}")

    def bytes_of(self, option):
        number, unit = re.fullmatch(r"(\d+)(KiB|MiB|GiB)", self.options[option]).groups()
        return int(number) * {"KiB": 1024, "MiB": MIB, "GiB": GIB}[unit]


measured = Measured()


@dataclasses.dataclass(frozen=True)
class Node:
    """A node whose readers all have the same protocol and get the same messages."""

    machine: Machine
    workload: Workload
    protocol: str = "plain"
    tls: bool = False
    window: float = WINDOW
    round_trip: float = ROUND_TRIP

    # For each reader.

    def writes(self):
        """Writes per second. More messages than windows share writes; without messages there are keep-alives."""
        return max(min(self.workload.rate, 1 / self.window), 1 / KEEP_ALIVE)

    def cpu(self):
        """Cores."""
        write, shared = measured("cpu_us", "write"), message_us()
        if self.tls:
            write *= measured("cpu_us", "write_tls") / measured("cpu_us", "write_before_tls")
        return (self.writes() * write + max(self.workload.rate - self.writes(), 0) * shared) / 1e6

    def message_bytes(self):
        """Of a message on the wire, without headers of TCP and below."""
        plain = measured("wire_bytes", self.protocol if self.protocol == "websocket" else "plain")
        return plain - 100 + self.workload.payload

    def bits(self):
        """Bits per second to the reader, headers included. Long batches take several segments."""
        tls = measured("wire_bytes", "tls") - measured("wire_bytes", "plain") if self.tls else 0
        payload = self.workload.rate * self.message_bytes() + max(self.writes() - self.workload.rate, 0) * KEEP_ALIVE_BYTES
        segments = max(self.writes(), payload / 1400)
        return 8 * (payload + self.writes() * tls + segments * measured("wire_bytes", "segment"))

    def user_bytes(self):
        tls = measured("user_bytes", "tls") - measured("user_bytes", "plain") if self.tls else 0
        return measured("user_bytes", self.protocol) + tls

    def kernel_bytes(self):
        """The socket, and the messages of one round trip, which wait to be acknowledged."""
        in_flight = self.writes() * self.round_trip * measured("kernel_bytes", "segment")
        return measured("kernel_bytes", "connection") + in_flight + self.bits() / 8 * self.round_trip

    # For the node.

    def bounds(self):
        """Readers by each resource."""
        return {
            "memory": (self.machine.memory * MEMORY - fixed_bytes()) / (self.user_bytes() + self.kernel_bytes()),
            "CPU": self.machine.cores * CPU / self.cpu(),
            "network": self.machine.bits * NETWORK / self.bits(),
            "descriptors": DESCRIPTORS - 64,
        }

    def readers(self):
        return int(min(self.bounds().values()))

    def binding(self):
        return min(self.bounds(), key=self.bounds().get)


def message_us():
    """CPU time of a message that shares its write: what a delivery of a fast run takes, less its part of the write."""
    return max(measured("cpu_us", "batched") - measured("cpu_us", "write") / measured("cpu_us", "batch"), 0)


def fixed_bytes():
    """Memory of a node that does not grow with its readers: the process, and all bounds reached at the same time."""
    once = sum(measured.bytes_of(option) for option in ["total-log-bytes", "merged-bytes", "history-bytes", "replay-bytes"])
    return measured("process_bytes", "base") + once + 3 * measured.bytes_of("inbox-bytes")


def tree(leaves, fan_out):
    """Nodes of each level, from the origins to the leaves. Two origins at least, so that one may be lost."""
    levels = [leaves]
    while levels[0] > fan_out:
        levels.insert(0, math.ceil(levels[0] / fan_out))
    if levels[0] > 2:
        levels.insert(0, 2)
    return levels


def spare(nodes):
    """One node in ten more, at least one: for those that are lost or restart."""
    return nodes + max(math.ceil(nodes / 10), 1)


# Texts


def rounded(value, digits=2):
    """With two significant digits, because more would be false precision."""
    if value == 0:
        return 0
    factor = 10 ** (digits - 1 - math.floor(math.log10(abs(value))))
    return math.floor(value * factor + 0.5) / factor


def count(value):
    return f"{rounded(value):,.0f}"


def exact(value):
    return f"{value:,.0f}"


def size(value):
    for factor, unit in ((1024**4, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if value >= factor:
            return f"{rounded(value / factor):g} {unit}"
    return f"{value:.0f} B"


def bandwidth(value):
    for factor, unit in ((1e12, "Tbit/s"), (1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if value >= factor:
            return f"{rounded(value / factor):g} {unit}"
    return f"{rounded(value):g} bit/s"


def duration(seconds):
    for factor, unit in ((60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{rounded(seconds / factor):g} {unit}"
    return f"{rounded(seconds * 1e6):g} us"


def table(*rows):
    head, *body = [[str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body]).replace(" --- ", "---")


# Tables


def figures():
    def row(what, unit, *path):
        figure = measured.figures
        for name in path:
            figure = figure[name]
        origin = figure.get("from") or f"run `{figure['record'][0]}`, `{figure['record'][2]}`"
        return [what, unit(measured(*path)), origin]

    us = lambda value: f"{value:.3g} us"
    return table(
        ["figure", "value", "from"],
        row("process memory of an idle event stream", size, "user_bytes", "plain"),
        row("the same of a WebSocket", size, "user_bytes", "websocket"),
        row("the same of an event stream over TLS", size, "user_bytes", "tls"),
        row("the same over HTTP/2, one stream on a connection", size, "user_bytes", "http2"),
        row("kernel memory of a connection", size, "kernel_bytes", "connection"),
        row("kernel memory of a message on its way, both ends", size, "kernel_bytes", "segment"),
        row("entry of conntrack", size, "kernel_bytes", "conntrack"),
        row("CPU of a write to a reader", us, "cpu_us", "write"),
        row("CPU of a message that shares a write, its part of the write included", us, "cpu_us", "batched"),
        row("messages in such a write", lambda value: f"{value:.0f}", "cpu_us", "batch"),
        ["CPU of a message more in a write", us(message_us()), "from the three rows above: shared - write / messages"],
        row("CPU of a write over TLS", us, "cpu_us", "write_tls"),
        row("in the same run without TLS", us, "cpu_us", "write_before_tls"),
        row("time to connect, client and server on two cores", us, "cpu_us", "connect"),
        row("the same over TLS", us, "cpu_us", "connect_tls"),
        row("bytes of a message of 100, event stream", lambda value: f"{value:.0f} B", "wire_bytes", "plain"),
        row("the same as a WebSocket message in JSON", lambda value: f"{value:.0f} B", "wire_bytes", "websocket"),
        row("headers of a segment", lambda value: f"{value:.0f} B", "wire_bytes", "segment"),
        ["memory of a node without readers", size(fixed_bytes()), "process, and the defaults of its bounds, all reached"],
    )


def one_node():
    rows = [["machine", "each reader gets", "event streams", "event streams, TLS", "WebSocket, TLS"]]
    for machine in (SMALL, MEDIUM, LARGE):
        for workload in (IDLE, QUIET, CHATTY, BUSY):
            nodes = [Node(machine, workload), Node(machine, workload, tls=True), Node(machine, workload, "websocket", True)]
            rows.append([machine.title, workload.title, *[f"{count(node.readers())} ({node.binding()})" for node in nodes]])
    return table(*rows)


def sensitivity():
    base = Node(MEDIUM, CHATTY, tls=True)
    changed = {
        f"{MEDIUM.title}; {CHATTY.title} of 100 bytes; TLS; window 100 ms; round trip 100 ms": base,
        "no TLS": dataclasses.replace(base, tls=False),
        "WebSocket in JSON": dataclasses.replace(base, protocol="websocket"),
        "HTTP/2, one stream on a connection": dataclasses.replace(base, protocol="http2"),
        "watch-lists of 20 topics, each shared by ten readers": dataclasses.replace(base, protocol="watch_list"),
        "payloads of 1,000 bytes": dataclasses.replace(base, workload=Workload("", 20, 1000)),
        "2 messages/s": dataclasses.replace(base, workload=Workload("", 2)),
        "200 messages/s": dataclasses.replace(base, workload=Workload("", 200)),
        "window 20 ms": dataclasses.replace(base, window=0.02),
        "window 500 ms (`?max-rate=2/s`)": dataclasses.replace(base, window=0.5),
        "round trip 300 ms": dataclasses.replace(base, round_trip=0.3),
    }
    rows = [["change", "readers", "bound", "memory each: process, kernel", "CPU for 10,000", "bandwidth for 10,000"]]
    for title, node in changed.items():
        memory = f"{size(node.user_bytes())}, {size(node.kernel_bytes())}"
        rows.append(
            [title, count(node.readers()), node.binding(), memory, f"{rounded(node.cpu() * 1e4):g} cores", bandwidth(node.bits() * 1e4)]
        )
    return table(*rows)


def audiences():
    rows = [
        [
            "readers",
            "each gets",
            "nodes",
            "readers a node",
            "memory a node: process, kernel, fixed",
            "descriptors a node",
            "conntrack",
            "bandwidth a node, all",
        ]
    ]
    for audience in AUDIENCES:
        for workload in (IDLE, QUIET, CHATTY, BUSY):
            node = Node(MEDIUM, workload, tls=True)
            needed = math.ceil(audience / min(node.readers(), MOST_READERS))
            each = math.ceil(audience / needed)
            rows.append(
                [
                    exact(audience),
                    workload.title,
                    f"{exact(needed)} + {exact(spare(needed) - needed)}",
                    count(each),
                    f"{size(each * node.user_bytes())}, {size(each * node.kernel_bytes())}, {size(fixed_bytes())}",
                    count(each + 64),
                    size(each * measured("kernel_bytes", "conntrack")),
                    f"{bandwidth(each * node.bits())}, {bandwidth(audience * node.bits())}",
                ]
            )
    return table(*rows)


def lost_node():
    rows = [["readers of a node", "addresses of a proxy before it", "come back to each of nine others", "in, plain", "in, TLS"]]
    for readers in (20_000, 100_000, MOST_READERS, 1_000_000):
        times = [duration(readers / 9 * measured("cpu_us", name) / 1e6) for name in ("connect", "connect_tls")]
        rows.append([exact(readers), exact(math.ceil(readers / PORTS)), count(readers / 9), *times])
    return table(*rows)


def runs():
    """How far the CPU time of a delivery by the model is from that of recorded runs."""
    rows = [["1,000 readers", "messages that clients read at once", "measured", "by the model", "model / measured"]]
    for rate in (50, 500, 1000, 2500, 5000):
        figures = measured.records[f"rate {rate}"]["subjects"]["tallycast"]
        batch, cpu = figures["deliveries_per_read"], figures["cpu_per_delivery_us"]
        model = measured("cpu_us", "write") / batch + (message_us() if batch > 1 else 0)
        rows.append([f"{rate:,} messages/s", f"{batch:.1f}", f"{cpu:.3g} us", f"{model:.3g} us", f"{model / cpu:.2f}"])
    return table(*rows)


def brokers():
    def nodes(cost, rate):
        return NOT_MEASURED if cost is None else count(CPU * 1e6 / (cost * rate))

    cost_title = "CPU of the broker, an event and node"
    by_rate = ["nodes by one core: 100 events/s", "1,000", "10,000", "10,000 in bursts"]
    rows = [["source", "events/s that one node takes in", cost_title, *by_rate]]
    for name, broker in measured.figures["broker"].items():
        ingest, node, batched = (measured("broker", name, field) if field in broker else None for field in FIELDS)
        taken = NOT_MEASURED if ingest is None else f"{'at least ' * broker['ingest'].get('at_least', False)}{exact(ingest)}"
        if name == "relay":
            # A relay is a reader of the node that it reads from.
            cpu = [relay(rate).cpu() for rate in (100, 1_000, 10_000)]
            cost, cells = "that of a reader", [count(CPU / cores) for cores in cpu]
            cells.append(cells[-1])
        else:
            cost = NOT_MEASURED if node is None else f"{node:.2g} us"
            cost += "" if batched is None else f", {batched:.2g} us in bursts"
            cells = [*[nodes(node, rate) for rate in (100, 1_000, 10_000)], nodes(batched, 10_000)]
        rows.append([broker["title"], taken, cost, *cells])
    return table(*rows)


def relay(rate):
    """What a relay takes of the node that it reads from: that of a reader who gets everything, at most every 20 ms."""
    return Node(MEDIUM, Workload("", rate), tls=True, window=0.02)


def trees():
    p50, p99 = ((measured("latency_us", f"relay_{name}") or measured("latency_us", name)) / 1e6 for name in ("p50", "p99"))
    rows = [["readers", "events/s", "leaves", "nodes by level", "all nodes", "each link", "out of an edge", "added latency p50, p99"]]
    for audience, rate in [(1_000_000, 1_000), (100_000_000, 20), (100_000_000, 1_000), (100_000_000, 10_000)]:
        # Readers get 20 messages per second of these events at most.
        node = Node(MEDIUM, Workload("", min(rate, 20)), tls=True)
        leaves = spare(math.ceil(audience / min(node.readers(), MOST_READERS)))
        levels = tree(leaves, FAN_OUT)
        link = relay(rate)
        steps = len(levels) - 1
        latency = ", ".join(duration(steps * (HOP + value)) for value in (p50, p99))
        rows.append(
            [
                exact(audience),
                exact(rate),
                exact(leaves),
                " → ".join(exact(level) for level in levels),
                exact(sum(levels)),
                bandwidth(link.bits()),
                f"{bandwidth(link.bits() * FAN_OUT)}, {rounded(link.cpu() * FAN_OUT):g} cores" if steps else "",
                latency if steps else "none",
            ]
        )
    return table(*rows)


TABLES = {
    "figures": figures,
    "runs": runs,
    "one node": one_node,
    "sensitivity": sensitivity,
    "audiences": audiences,
    "lost node": lost_node,
    "brokers": brokers,
    "trees": trees,
}


def main():
    page = PAGE.read_text()
    updated = page
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: written by benches/scaling/model.py -->\n", "<!-- end -->"
        before, found, rest = updated.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            sys.exit(f"docs/scaling.md: expected the lines {begin.strip()} and {end}")
        updated = f"{before}{begin}\n{make()}\n\n{end}{after}"
    if "--check" not in sys.argv:
        PAGE.write_text(updated)
    elif updated != page:
        sys.exit("docs/scaling.md does not follow from the measured figures: run benches/scaling/model.py")
    else:
        print("docs/scaling.md follows from the measured figures")


main()
