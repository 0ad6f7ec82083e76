"""`CircuitOpen`: when it is raised, and its exact text."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from hms_spine import CircuitOpen, NonePasses

from .conftest import AnySpine
from .registry import Registry


def test_open_while_no_instance_passes(spine: AnySpine, registry: Registry) -> None:
    spine.register("photo", "http://localhost:8002")
    registry.status["photo@localhost:8002"] = "critical"
    with pytest.raises(CircuitOpen) as caught:
        spine.lookup("photo")
    assert str(caught.value) == "'photo' temporarily unavailable (3/3 failures)"
    assert (caught.value.name, caught.value.failures, caught.value.threshold) == ("photo", 3, 3)
    registry.status["photo@localhost:8002"] = "passing"
    assert spine.lookup("photo") == "http://localhost:8002"


def test_the_key_does_not_get_around_an_open_circuit(spine: AnySpine, registry: Registry) -> None:
    spine.register("photo", "http://localhost:8002")
    assert "services/photo" in registry.keys
    registry.status["photo@localhost:8002"] = "critical"
    with pytest.raises(CircuitOpen):
        spine.lookup("photo")


def test_a_check_without_a_threshold_opens_at_its_first_failure(spine: AnySpine, registry: Registry) -> None:
    check = {"FailuresBeforeCritical": 0, "Status": "critical"}
    registry.services["n1", "x"] = {"Name": "x", "ID": "x", "Address": "h", "Port": 1, "Check": check}
    with pytest.raises(CircuitOpen, match=r"\(1/1 failures\)"):
        spine.lookup("x")


def test_the_traceback_ends_with_the_full_name_and_text(spine: AnySpine, registry: Registry) -> None:
    spine.register("photo", "http://localhost:8002")
    registry.status["photo@localhost:8002"] = "critical"
    program = f"from hms_spine import Spine\nSpine({registry.url!r}).lookup('photo')"
    environment = {"PYTHONPATH": str(Path(__file__).parents[1] / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert last == "hms_spine.exceptions.CircuitOpen: 'photo' temporarily unavailable (3/3 failures)"


def test_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(CircuitOpen("photo", 3, 3)))
    assert str(copy) == "'photo' temporarily unavailable (3/3 failures)"
    assert copy.threshold == 3
    assert type(pickle.loads(pickle.dumps(NonePasses("photo", 3, 3)))) is NonePasses
