"""A collector of OpenTelemetry traces that knows the protocol by PyPI's opentelemetry-proto. Prints its port, and for each request that it
takes a line: the spans as a JSON list."""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

IDS = ("traceId", "spanId", "parentSpanId")


def parsed(body):
    """The request, or an error for anything that the definition does not have. OTLP differs from the JSON of Protocol Buffers in its ids,
    which are in hexadecimal."""
    request = json.loads(body)
    for resource in request["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in IDS:
                    if name in span:
                        span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    return ParseDict(request, ExportTraceServiceRequest())


def attributes(values):
    return {value.key: getattr(value.value, value.value.WhichOneof("value")) for value in values}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        spans = []
        if (self.path, self.headers["content-type"]) == ("/v1/traces", "application/json"):
            for resource in parsed(body).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        spans.append({
                            "trace": span.trace_id.hex(),
                            "id": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "name": span.name,
                            "start": span.start_time_unix_nano,
                            "end": span.end_time_unix_nano,
                            "status": span.status.code,
                            "attributes": attributes(span.attributes),
                            "resource": attributes(resource.resource.attributes),
                            "key": self.headers["x-key"],
                        })
        answer = b"{}"
        self.send_response(200 if spans else 400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        if spans:
            print(json.dumps(spans), flush=True)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
