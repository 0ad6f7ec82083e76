"""The examples, as a reader runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .registry import Registry
from .wait import until

PACKAGE = Path(__file__).parents[1]


def start(registry: Registry, *command: str) -> subprocess.Popen[str]:
    source = str(PACKAGE / "src")
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", "REG_URL": registry.url}
    program = [sys.executable, str(PACKAGE / "examples" / command[0]), *command[1:]]
    pipe = subprocess.PIPE
    return subprocess.Popen(program, env=environment, text=True, stdin=pipe, stdout=pipe)


def test_a_kiosk_is_called_while_it_runs(registry: Registry) -> None:
    with start(registry, "kiosk.py", "photo") as kiosk:
        assert kiosk.stdout
        url = kiosk.stdout.readline().split()[-1]
        said, _ = start(registry, "caller.py", "photo", "3").communicate(timeout=30)
        assert said == f"{url} 200\n" * 3
        kiosk.communicate("", timeout=30)
    assert kiosk.returncode == 0
    until(lambda: not registry.services)
    said, _ = start(registry, "caller.py", "photo", "1").communicate(timeout=30)
    assert said == "not called: no instance of 'photo' is registered\n"


def test_three_failed_calls_and_it_is_left_alone(registry: Registry) -> None:
    # Port 9 of the loopback: nobody listens there.
    registry.services["n1", "photo"] = {"Name": "photo", "ID": "photo", "Address": "127.0.0.1", "Port": 9}
    said, _ = start(registry, "caller.py", "photo", "4").communicate(timeout=30)
    *failed, last = said.splitlines()
    assert [line.partition(":")[0] for line in failed] == ["failed"] * 3
    assert last == "not called: 'photo' temporarily unavailable (3/3 failures)"
