"""One registered instance: what is sent to the registry about it, and what is read back.

This is the only module that knows the field names of the registry's JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

#: Seconds between two probes of an instance.
CHECK_INTERVAL = 5
#: Seconds that a probe may take. Less than the interval, so that a hanging service is noticed as fast as a dead one.
CHECK_TIMEOUT = 2
#: Failed probes in a row before an instance is called critical: with the interval, 15 s at most, or 21 s if it hangs.
FAILURES_BEFORE_CRITICAL = 3


@dataclass(frozen=True)
class Check:
    """The state of one check, of an instance or of the node it is registered with."""

    passing: bool
    failures_before_critical: int

    @classmethod
    def decode(cls, row: Mapping[str, Any]) -> Check:
        """From an element of `Checks` in the registry's health answer."""
        definition = row.get("Definition") or {}
        # Registries that don't tell the threshold, and checks without one, call the first failure critical.
        threshold = definition.get("FailuresBeforeCritical") or 1
        return cls(row.get("Status") == "passing", int(threshold))


@dataclass(frozen=True)
class Instance:
    """One place where a service runs."""

    node: str
    id: str
    url: str
    version: str | None
    tags: tuple[str, ...]
    weight: int
    checks: tuple[Check, ...]

    @classmethod
    def decode(cls, entry: Mapping[str, Any]) -> Instance:
        """From an element of `/v1/health/service/NAME`, whoever registered it."""
        node, service = entry["Node"], entry["Service"]
        meta = service.get("Meta") or {}
        weights = service.get("Weights") or {}
        return cls(
            node=node["Node"],
            id=service["ID"],
            url=meta.get("url") or _url_of(service.get("Address") or node["Address"], service.get("Port") or 0),
            version=meta.get("version"),
            tags=tuple(service.get("Tags") or ()),
            weight=int(weights.get("Passing", 1)),
            checks=tuple(Check.decode(row) for row in entry.get("Checks") or ()),
        )

    @property
    def passing(self) -> bool:
        """Whether every check of the instance and of its node passes."""
        return all(check.passing for check in self.checks)

    def is_version(self, version: str) -> bool:
        """Whether the instance carries that version, in its metadata or (registered by others) as a tag."""
        return version == self.version or version in self.tags


@dataclass(frozen=True)
class Registration:
    """What is said about an instance when it is registered."""

    name: str
    url: str
    id: str | None = None
    version: str | None = None
    weight: int | None = None
    check: bool = True

    def __post_init__(self) -> None:
        """A slash at the end of a URL doesn't make another instance."""
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def body(self) -> dict[str, Any]:
        """The same as the registry's JSON. Raises `ValueError` for what no registry would take.

        Address and port are there for everybody; the URL itself, which may have a path, travels in the metadata. The
        version is metadata for filters and a tag for DNS.
        """
        if not self.name:
            raise ValueError("a service needs a name")
        host, port, path = _split(self.url)
        meta = {"url": self.url}
        body: dict[str, Any] = {
            "Name": self.name,
            "ID": self.id or f"{self.name}@{_in_url(host)}:{port}{path}",
            "Address": host,
            "Port": port,
            "Meta": meta,
        }
        if self.version is not None:
            meta["version"] = self.version
            body["Tags"] = [self.version]
        if self.weight is not None:
            body["Weights"] = {"Passing": _weight(self.weight), "Warning": min(self.weight, 1)}
        if self.check:
            body["Check"] = {
                "HTTP": self.url + "/health",
                "Interval": f"{CHECK_INTERVAL}s",
                "Timeout": f"{CHECK_TIMEOUT}s",
                "FailuresBeforeCritical": FAILURES_BEFORE_CRITICAL,
                # Who registers says that the service is there; the probes may prove it wrong.
                "Status": "passing",
            }
        return body


def failed_threshold(instances: Sequence[Instance]) -> int:
    """How many failures opened the circuit of `instances`, none of which passes: as told by the first such check."""
    return next(
        (check.failures_before_critical for instance in instances for check in instance.checks if not check.passing),
        1,
    )


def _weight(weight: int) -> int:
    if not 0 <= weight <= 65535:
        raise ValueError(f"a weight is a number from 0 to 65535, not {weight}")
    return weight


def _split(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"a service URL looks like http://HOST:PORT, not {url!r}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.hostname, port, parts.path


def _url_of(address: str, port: int) -> str:
    return f"http://{_in_url(address)}:{port}" if port else f"http://{_in_url(address)}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
