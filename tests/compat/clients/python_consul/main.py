"""`python-consul`, unmodified, against the server at the address given as the only argument."""

from __future__ import annotations

import sys

from consul import Consul

import both
from report import Report


def main(address: str) -> int:
    host, port = address.split(":")
    report = Report()
    # This client has no filters, weights or metadata: what it can do is what both can do.
    both.run(report, lambda: Consul(host, int(port)))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
