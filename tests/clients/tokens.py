"""Signs tokens with PyPI's PyJWT: reads a list of {alg, key, kid, claims} from standard input, and prints a list of tokens."""

import json
import sys

import jwt

tokens = []
for wanted in json.load(sys.stdin):
    headers = {"kid": wanted["kid"]} if wanted.get("kid") else None
    key = wanted["key"] if wanted["alg"] != "none" else None
    if wanted.get("confused"):
        # PyJWT itself refuses to use a public key as a secret.
        jwt.algorithms.HMACAlgorithm.prepare_key = lambda self, key: key.encode()
    tokens.append(jwt.encode(wanted["claims"], key, algorithm=wanted["alg"], headers=headers))
print(json.dumps(tokens))
