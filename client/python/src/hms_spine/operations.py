"""What is asked of a registry, request by request.

An instance is registered in two places: in the catalog, where it has a check and a weight, and as the plain URL under
the key `services/NAME`, for programs that only know that key. `lookup` asks the catalog, and falls back to the key
for names that were written there by somebody else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from .balancer import choose, of_version, passing, sharing
from .exceptions import NotFound, SpineError
from .instance import Instance, Registration
from .message import Answer, Operation, Request

# How often a compare-and-set on the shared key is tried again before the others win.
_CAS_ATTEMPTS_MAX = 5


def register(registration: Registration) -> Operation[None]:
    """Say that a service is served at a URL."""
    (yield _put("/v1/agent/service/register", registration.body())).done()
    (yield Request("PUT", _key_path(registration.name), body=registration.url.encode())).done()


def repeat(registration: Registration) -> Operation[None]:
    """Say again what `register` said. The key is written only if there is none.

    Instances of one name that repeat themselves by turns would else change it again and again.
    """
    (yield _put("/v1/agent/service/register", registration.body())).done()
    if (yield from _read_key(registration.name)) is None:
        (yield Request("PUT", _key_path(registration.name), {"cas": "0"}, registration.url.encode())).done()


def deregister(name: str, url: str | None = None) -> Operation[None]:
    """Take the instance at `url`, or without `url` all of `name`, out of the registry."""
    url = url and url.rstrip("/")
    instances = instances_in((yield health(name)))
    leaving = [each for each in instances if url is None or each.url == url]
    for instance in leaving:
        # By node and ID, which name exactly one instance; an ID alone may be in use on several nodes.
        row = {"Node": instance.node, "ServiceID": instance.id}
        (yield _put("/v1/catalog/deregister", row)).done()
    staying = [each for each in instances if each not in leaving]
    yield from _release_key(name, url, staying)


def lookup(name: str, version: str | None = None) -> Operation[str]:
    """The URL of an instance of `name` that passes its checks, drawn by weight."""
    instances = instances_in((yield health(name)))
    if not instances and version is None:
        return (yield from _lookup_key(name))
    return choose(sharing(passing(name, of_version(name, instances, version)))).url


def health(name: str, index: int = 0, wait: float = 0.0) -> Request:
    """Asks for all instances of `name` with their checks; with `index`, as soon as there is something newer."""
    if not name:
        raise ValueError("a service needs a name")
    query = {"index": str(index)} if index else {}
    return Request("GET", f"/v1/health/service/{quote(name, safe='')}", query, wait=wait if index else 0.0)


def instances_in(answer: Answer) -> list[Instance]:
    """What the answer to `health` tells."""
    document = answer.done().json()
    try:
        return [Instance.decode(entry) for entry in document]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpineError(f"the registry answered something that is no list of instances: {error!r}") from error


def _lookup_key(name: str) -> Operation[str]:
    found = yield from _read_key(name)
    url = found and found[0]
    if not url:
        raise NotFound(f"no instance of {name!r} is registered")
    return url


def _release_key(name: str, url: str | None, staying: Sequence[Instance]) -> Operation[None]:
    """Let `services/NAME` no longer lead to `url` (or, without `url`, to anywhere).

    By compare-and-set, so that a registration made meanwhile is not undone.
    """
    for _ in range(_CAS_ATTEMPTS_MAX):
        found = yield from _read_key(name)
        if found is None or (url is not None and found[0] != url):
            return
        cas = {"cas": str(found[1])}
        if staying:
            answer = yield Request("PUT", _key_path(name), cas, staying[0].url.encode())
        else:
            answer = yield Request("DELETE", _key_path(name), cas)
        if answer.done().json() is True:
            return
    raise SpineError(f"key {_key(name)!r} changes faster than it can be released")


def _read_key(name: str) -> Operation[tuple[str | None, int] | None]:
    """The URL under `services/NAME` and its ModifyIndex."""
    answer = yield Request("GET", _key_path(name))
    if answer.status == 404:
        return None
    row = answer.done().json()[0]
    return _url_in(base64.b64decode(row["Value"] or "")), row["ModifyIndex"]


def _put(path: str, body: dict[str, Any]) -> Request:
    return Request("PUT", path, body=json.dumps(body).encode())


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
