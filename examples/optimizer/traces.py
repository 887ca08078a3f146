"""Requests such as a system's loads say: python traces.py SYSTEM [MINUTES] > traces.csv, for `flambeau simulate`.

They come at random (Poisson), and so do the lengths of their answers (geometric).
"""

import json
import math
import sys
from random import Random


def main(path: str, minutes: float) -> None:
    random = Random(1)
    print("server,arrival,in_tokens,out_tokens")
    with open(path) as file:
        servers = json.load(file)["system"]["serverData"]["servers"]
    for server in servers:
        load, now = server["currentAlloc"]["load"], 0.0
        while (now := now + random.expovariate(load["arrivalRate"] / 60)) < minutes * 60:
            tokens = 1 + math.floor(random.expovariate(1 / load["avgOutTokens"]))
            print(f"{server['name']},{now:.3f},{load['avgInTokens']},{tokens}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 10)
