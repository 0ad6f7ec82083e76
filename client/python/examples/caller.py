"""Calls a service again and again: `python caller.py photo`, with a `photo` registered that answers `/health`.

The resolver keeps the list of instances, so calls go on while the registry is away; three failed calls in a row to an
instance, and it is left alone for a while.
"""

import sys
import urllib.request

from hms_spine import CircuitOpen, NotFound, Spine

name, calls = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5

with Spine().resolver(name) as service:
    for _ in range(calls):
        try:
            with service.call() as url, urllib.request.urlopen(url + "/health", timeout=2) as answer:
                print(url, answer.status)
        except (CircuitOpen, NotFound) as refused:
            print("not called:", refused)
        except OSError as failed:
            print("failed:", failed)
