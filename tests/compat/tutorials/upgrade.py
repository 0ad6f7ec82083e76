"""Section 8 of the tutorial, "Upgrade-Without-Outage Demo", with `hms_spine` alone.

Not part of the tutorial, which tells these steps in prose: two versions of its identity service, callers that never
pause, and the weights moved under them. Prints one JSON document: for each step the weights and the calls that each
version got, and how many calls failed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter

import httpx
from hms_spine import Spine

CALLERS = 4
PORTS = {"v1": 8001, "v2": 8003}
URLS = {version: f"http://localhost:{port}" for version, port in PORTS.items()}

spine = Spine("http://localhost:8500")
# A connection for each call, as callers that come and go make them.
http = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))


def start(version: str) -> subprocess.Popen[bytes]:
    """One instance of the tutorial's identity service, once it answers."""
    command = [sys.executable, "-m", "uvicorn", "identity:app", "--port", str(PORTS[version])]
    server = subprocess.Popen(command, stdout=sys.stderr)
    deadline = time.monotonic() + 30
    while True:
        try:
            http.get(URLS[version] + "/health").raise_for_status()
            return server
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Callers:
    """Threads that look `identity` up and call it, again and again."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.step = 0
        self.shares: dict[int, Counter[str]] = {}
        self.total = 0
        self.failures: list[str] = []
        self.ended = False
        self.threads = [threading.Thread(target=self._run) for _ in range(CALLERS)]

    def count(self, calls: int) -> Counter[str]:
        """What each version got of at least `calls` calls that began and ended from here on."""
        with self.changed:
            self.step += 1
            shares = self.shares[self.step] = Counter()
            self.changed.wait_for(lambda: shares.total() >= calls)
            self.step += 1  # calls under way while something is changed count for no step, only for the failures
            return Counter(shares)

    def _run(self) -> None:
        while not self.ended:
            step = self.step
            try:
                url = spine.lookup("identity")
                answer = http.get(url + "/health").raise_for_status()
                failure = None if answer.json() == {"up": True} else f"{url}: {answer.text}"
            except Exception as error:  # whatever it is, a caller was failed
                failure = repr(error)
            with self.changed:
                self.total += 1
                if failure:
                    self.failures.append(failure)
                elif step == self.step and step in self.shares:
                    self.shares[step][next(version for version, known in URLS.items() if known == url)] += 1
                self.changed.notify_all()


def main() -> None:
    random.seed(8)  # the same draws in each run: a share is right or wrong, not lucky
    callers = Callers()
    steps = []

    def measure(weights: dict[str, int], calls: int) -> None:
        steps.append({"weights": weights, "calls": dict(callers.count(calls))})

    servers = {version: start(version) for version in URLS}
    spine.register("identity", URLS["v1"], version="v1", weight=80)
    spine.register("identity", URLS["v2"], version="v2", weight=20)
    for thread in callers.threads:
        thread.start()
    measure({"v1": 80, "v2": 20}, 1000)

    spine.register("identity", URLS["v1"], version="v1", weight=0)
    spine.register("identity", URLS["v2"], version="v2", weight=100)
    measure({"v1": 0, "v2": 100}, 600)

    spine.deregister("identity", URLS["v1"])
    servers["v1"].terminate()
    servers["v1"].wait()
    measure({"v2": 100}, 400)

    callers.ended = True
    for thread in callers.threads:
        thread.join()
    servers["v2"].terminate()
    servers["v2"].wait()
    print(json.dumps({"total": callers.total, "failures": callers.failures, "steps": steps}))


main()
