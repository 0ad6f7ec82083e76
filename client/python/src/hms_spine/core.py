"""`Spine`: register, deregister, lookup.

An instance is registered in two places: in the catalog, where it has a check and a weight, and as the plain URL under
the key `services/NAME`, for programs that only know that key. `lookup` asks the catalog, and falls back to the key
for names that were written there by somebody else.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from .balancer import choose
from .exceptions import CircuitOpen, NotFound, SpineError
from .instance import Instance, failed_threshold, registration
from .transport import Answer, Transport

#: Where the registry is unless `Spine` is told.
REG_URL = os.getenv("REG_URL", "http://localhost:8500")

#: Seconds: a server gives up after 5 s itself and then says why, which is worth hearing.
TIMEOUT = 7.0

# How often a compare-and-set on the shared key is tried again before the others win.
_CAS_ATTEMPTS_MAX = 5


class Spine:
    """The registry, as a program that has or needs services sees it. May be shared by threads."""

    def __init__(self, reg: str | Sequence[str] = REG_URL, *, timeout: float = TIMEOUT) -> None:
        """`reg`: the URL of a server, or of several of one cluster; `timeout`: seconds for one server's answer."""
        urls = [reg] if isinstance(reg, str) else list(reg)
        self._transport = Transport([url.rstrip("/") for url in urls], timeout)

    def register(
        self,
        name: str,
        url: str,
        *,
        id: str | None = None,
        version: str | None = None,
        weight: int | None = None,
        check: bool = True,
    ) -> None:
        """Say that `name` is served at `url`; say it again to change version, weight or check.

        `id` is made from name and URL unless given, so a second URL is a second instance. `weight`: the share of
        calls relative to the other instances (1 if not given; 0: none). `check`: have the registry probe
        `url + "/health"`, and take the instance out of `lookup` while that fails.
        """
        url = url.rstrip("/")
        body = registration(name, url, id=id, version=version, weight=weight, check=check)
        self._done(self._send("PUT", "/v1/agent/service/register", body))
        self._done(self._transport.request("PUT", _key_path(name), body=url.encode()))

    def deregister(self, name: str, url: str | None = None) -> None:
        """Take the instance at `url`, or without `url` all of `name`, out of the registry. Absent is fine, too."""
        url = url and url.rstrip("/")
        instances = self._instances(name)
        leaving = [each for each in instances if url is None or each.url == url]
        for instance in leaving:
            # By node and ID, which name exactly one instance; an ID alone may be in use on several nodes.
            row = {"Node": instance.node, "ServiceID": instance.id}
            self._done(self._send("PUT", "/v1/catalog/deregister", row))
        staying = [each for each in instances if each not in leaving]
        self._release_key(name, url, staying)

    def lookup(self, name: str, *, version: str | None = None) -> str:
        """The URL of an instance of `name` that passes its checks, drawn by weight.

        Raises `CircuitOpen` if there are instances and none passes, `NotFound` if there are none.
        """
        instances = [each for each in self._instances(name) if version is None or each.is_version(version)]
        passing = [each for each in instances if each.passing]
        if passing:
            return choose(passing).url
        if instances:
            threshold = failed_threshold(instances)
            raise CircuitOpen(name, threshold, threshold)
        if version is not None:
            raise NotFound(f"no instance of {name!r} with version {version!r} is registered")
        return self._lookup_key(name)

    def _instances(self, name: str) -> list[Instance]:
        if not name:
            raise ValueError("a service needs a name")
        answer = self._done(self._transport.request("GET", f"/v1/health/service/{quote(name, safe='')}"))
        return [Instance.decode(entry) for entry in answer.json()]

    def _lookup_key(self, name: str) -> str:
        found = self._read_key(name)
        url = found and found[0]
        if not url:
            raise NotFound(f"no instance of {name!r} is registered")
        return url

    def _release_key(self, name: str, url: str | None, staying: Sequence[Instance]) -> None:
        """Let `services/NAME` no longer lead to `url` (or, without `url`, to anywhere).

        By compare-and-set, so that a registration made meanwhile is not undone.
        """
        for _ in range(_CAS_ATTEMPTS_MAX):
            found = self._read_key(name)
            if found is None or (url is not None and found[0] != url):
                return
            cas = {"cas": str(found[1])}
            if staying:
                answer = self._transport.request("PUT", _key_path(name), cas, staying[0].url.encode())
            else:
                answer = self._transport.request("DELETE", _key_path(name), cas)
            if self._done(answer).json() is True:
                return
        raise SpineError(f"key {_key(name)!r} changes faster than it can be released")

    def _read_key(self, name: str) -> tuple[str | None, int] | None:
        """The URL under `services/NAME` and its ModifyIndex."""
        answer = self._transport.request("GET", _key_path(name))
        if answer.status == 404:
            return None
        row = self._done(answer).json()[0]
        return _url_in(base64.b64decode(row["Value"] or "")), row["ModifyIndex"]

    def _send(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        return self._transport.request(method, path, body=json.dumps(body).encode())

    @staticmethod
    def _done(answer: Answer) -> Answer:
        if answer.status >= 300:
            raise SpineError(f"the registry refused: {answer.status} {answer.text()}")
        return answer


def _key(name: str) -> str:
    return f"services/{name}"


def _key_path(name: str) -> str:
    return "/v1/kv/" + quote(_key(name))


def _url_in(value: bytes) -> str | None:
    """The URL that a value under `services/` stands for, if it does.

    Written plainly, as this package does; or as the JSON text `{"Value": "<hex of the URL>"}`, which early copies of
    it wrote.
    """
    try:
        text = value.decode().strip()
        if text.startswith("{"):
            text = bytes.fromhex(json.loads(text)["Value"]).decode()
    except (ValueError, KeyError, TypeError):
        return None
    return text if "://" in text else None
