"""A client that asks a worker at a fixed rate. It only imports Python's library, so it starts fast.

Arguments: PORT RATE SECONDS SEED USERS NEW_USERS PATH; USER in the path is replaced. It prints a line when it is ready,
waits for a line, asks, and prints [status, ms] of each request as JSON. A latency is measured from the time at which
the request was due.
"""

import http.client
import json
import random
import sys
import time

LIMIT_S = 10.0


def main() -> None:
    port, seconds, seed, users = (int(sys.argv[at]) for at in (1, 3, 4, 5))
    rate, new_users = float(sys.argv[2]), float(sys.argv[6])
    rng, found = random.Random(seed), []
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        user = f"user-{int(users * rng.random() ** 2):05}" if rng.random() >= new_users else f"new-{number}"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        connection.request("GET", sys.argv[7].replace("USER", user))
        answer = connection.getresponse()
        answer.read()
        connection.close()
        found.append((answer.status, round(1e3 * (time.monotonic() - due), 3)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
