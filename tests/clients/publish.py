"""Publishes updates of the Mercure protocol with PyPI's requests: reads a list of {url, token, fields, rfc3986} from standard input, and
prints a list of {status, body}. Forms are encoded by the rules of forms, or by RFC 3986."""

import json
import sys
from urllib.parse import quote, urlencode

import requests

answers = []
for wanted in json.load(sys.stdin):
    headers = {"authorization": f"Bearer {wanted['token']}"}
    fields = [tuple(field) for field in wanted["fields"]]
    if wanted["rfc3986"]:
        headers["content-type"] = "application/x-www-form-urlencoded"
        fields = urlencode(fields, quote_via=quote)
    response = requests.post(wanted["url"], data=fields, headers=headers)
    answers.append({"status": response.status_code, "body": response.text})
print(json.dumps(answers))
