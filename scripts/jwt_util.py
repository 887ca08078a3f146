#!/usr/bin/env python3
"""Make and read JSON web tokens (HS256):

    jwt_util.py [--secret SECRET] encode '{"team_id": "tenstorrent", "token_id": "debug-test"}'
    jwt_util.py [--secret SECRET] decode TOKEN

Without --secret the environment's JWT_SECRET is used. encode prints a token; decode checks one and prints its claims as JSON.
"""

import argparse
import json
import os
import sys
import warnings

import jwt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--secret", help="the shared secret; JWT_SECRET of the environment by default")
    parser.add_argument("mode", choices=["encode", "decode"])
    parser.add_argument("payload", help="a JSON object to encode, or a token to decode")
    given = parser.parse_args()
    secret = given.secret or os.environ.get("JWT_SECRET")
    if not secret:
        sys.exit("--secret or JWT_SECRET is wanted")
    warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)  # the server says it, and refuses
    print(encode(given.payload, secret) if given.mode == "encode" else decode(given.payload, secret))


def encode(payload: str, secret: str) -> str:
    try:
        claims = json.loads(payload)
    except ValueError as error:
        sys.exit(f"the claims are no JSON: {error}")
    if not isinstance(claims, dict):
        sys.exit("the claims must be a JSON object")
    return jwt.encode(claims, secret, algorithm="HS256")


def decode(token: str, secret: str) -> str:
    try:
        return json.dumps(jwt.decode(token, secret, algorithms=["HS256"], options={"verify_aud": False}))
    except jwt.PyJWTError as error:
        sys.exit(f"the token is not valid: {error}")


if __name__ == "__main__":
    main()
