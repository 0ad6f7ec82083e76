"""A registry of a few routes, in memory, for the tests: what `hms_spine` asks and nothing else."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class _Server(ThreadingHTTPServer):
    # As many as may connect at the same time; the 5 of the standard library are soon full.
    request_queue_size = 256


class Registry:
    """One server. Its tables may be changed by the tests, which then call `changed`."""

    def __init__(self, port: int = 0) -> None:
        self.index = 0
        self.services: dict[tuple[str, str], dict[str, Any]] = {}
        self.keys: dict[str, tuple[bytes, int]] = {}
        self.status: dict[str, str] = {}
        self.node = "n1"
        self.requests: list[str] = []
        #: Queries that wait for news at this moment.
        self.waiting = 0
        self._down = False
        self._closed = False
        self._news = threading.Condition()
        # The index of the answer that each thread is making: taken before the rows, which may only be newer.
        self._answer = threading.local()
        self._server = _Server(("127.0.0.1", port), self._handler())
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def down(self) -> bool:
        """Whether it answers as a server without a leader does, also to those who wait."""
        return self._down

    @down.setter
    def down(self, down: bool) -> None:
        with self._news:
            self._down = down
            self._news.notify_all()

    def changed(self) -> None:
        """Wake those who wait."""
        with self._news:
            self.index += 1
            self._news.notify_all()

    def set_status(self, id: str, status: str) -> None:
        """What a check of that instance found."""
        self.status[id] = status
        self.changed()

    def close(self) -> None:
        """Die: nobody is answered, connections are refused from here on."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Status and body for one request."""
        self.requests.append(f"{method} {target}")
        if self.down:
            return 500, b"No cluster leader"
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        route, _, rest = parts.path.removeprefix("/v1/").partition("/")
        if route == "kv":
            return self._key(method, unquote(rest), query, body)
        if parts.path == "/v1/agent/service/register":
            return self._register(json.loads(body))
        if parts.path == "/v1/catalog/deregister":
            row = json.loads(body)
            self.services.pop((row["Node"], row["ServiceID"]), None)
            self.changed()
            return 200, b"true"
        if parts.path.startswith("/v1/health/service/"):
            return self._health(unquote(rest.removeprefix("service/")), query)
        return 404, b"Invalid URL path"

    def _register(self, row: dict[str, Any]) -> tuple[int, bytes]:
        if any(len(value) > 512 for value in row.get("Meta", {}).values()):
            return 400, b"Invalid service meta: value is too long"
        self.services[self.node, row["ID"]] = row
        self.changed()
        return 200, b""

    def _health(self, name: str, query: dict[str, str]) -> tuple[int, bytes]:
        if "index" in query:
            with self._news:
                self.waiting += 1
                seconds = float(query["wait"].removesuffix("s"))
                self._news.wait_for(lambda: self._is_news(int(query["index"])), seconds)
                self.waiting -= 1
            if self._down:
                return 500, b"No cluster leader"
        self._answer.index = self.index + 1
        entries = [self._entry(key) for key, row in list(self.services.items()) if row["Name"] == name]
        return 200, json.dumps(entries).encode()

    def _is_news(self, index: int) -> bool:
        return self.index + 1 != index or self._down or self._closed

    def _entry(self, key: tuple[str, str]) -> dict[str, Any]:
        row = self.services[key]
        checks = [{"CheckID": "serfHealth", "Status": "passing", "Definition": {}}]
        if check := row.get("Check"):
            status = self.status.get(row["ID"], check.get("Status", "critical"))
            definition = {"FailuresBeforeCritical": check["FailuresBeforeCritical"]}
            checks.append({"CheckID": f"service:{row['ID']}", "Status": status, "Definition": definition})
        service = {key: row[key] for key in ("ID", "Address", "Port", "Tags", "Meta", "Weights") if key in row}
        return {"Node": {"Node": key[0], "Address": "10.0.0.1"}, "Service": service, "Checks": checks}

    def _key(self, method: str, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes]:
        value, modified = self.keys.get(key, (b"", 0))
        if method == "GET":
            if not modified:
                return 404, b""
            row = {"Key": key, "Value": base64.b64encode(value).decode() or None, "ModifyIndex": modified}
            return 200, json.dumps([row]).encode()
        if "cas" in query and int(query["cas"]) != modified:
            return 200, b"false"
        self.index += 1
        if method == "DELETE":
            self.keys.pop(key, None)
        else:
            self.keys[key] = (body, self.index)
        return 200, b"true"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                registry._answer.index = registry.index + 1
                status, content = registry.answer(self.command, self.path, body)
                if registry._closed:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("X-Consul-Index", str(registry._answer.index))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_DELETE = _do

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: pytest shows what matters."""

        return Handler
