"""The tutorial's exercise: a registry, two kiosks and a gateway, as processes of this machine.

    python3 deploy/demo/run.py

starts all four and takes commands: `stop email-svc`, `start email-svc`, `kill email-svc` (no goodbye), `status`, `quit`. Ctrl-C and the
end of the input are `quit`, too. It ends the processes that it started, and no others.

The registry's binary is `$SPINE_BIN`, or what lies in `target/release`, or is built. The Python packages go to a virtual environment
of its own, with the versions of `requirements.txt`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGE = ROOT / "client" / "python"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")

# Seconds: how long a start and an orderly end may take, on a machine that has other things to do.
READY_WITHIN = 180.0
STOPPED_WITHIN = 20.0


# What the packages of requirements.txt need.
PYTHON = (3, 11)


class Trouble(Exception):
    """What keeps the demo from going on, in words for who started it."""


class Program:
    """One of the four: a command, and the process that it is while it runs."""

    def __init__(self, name: str, command: list[str], url: str, ready: str, log: Path, reg_url: str) -> None:
        """`ready`: the path below `url` that answers 200 once the program does its work."""
        self.name = name
        self.url = url
        self._command = command
        self._ready = url + ready
        self._log = log
        # No bytecode beside the sources: the checkout stays as it is.
        self._environment = {**os.environ, "REG_URL": reg_url, "PYTHONDONTWRITEBYTECODE": "1"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._is_running():
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Out of reach of the terminal's Ctrl-C: they end in order, one after another.
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + READY_WITHIN
        while not self._answers():
            if not self._is_running() or time.monotonic() > deadline:
                raise Trouble(f"{self.name} does not become ready, see {self._log}")
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Ask it to end, and wait for that."""
        if self._process is None or not self._is_running():
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def told(self) -> str:
        """How it is, in a line."""
        if self._process is None:
            return f"{self.name} not started"
        if self._is_running():
            return f"{self.name} runs, pid {self._process.pid}, {self.url}"
        return f"{self.name} stopped"

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        # Straight to this machine, whatever proxy the environment names.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(self._ready, timeout=2.0):
                return True
        except OSError:
            return False


def programs(ports: list[int], spine: Path, python: Path, logs: Path) -> list[Program]:
    """All four, in the order in which they start."""
    http, grpc, email, photo, gateway = ports
    reg_url = f"http://127.0.0.1:{http}"
    dev = [str(spine), "dev", "--http-addr", f"127.0.0.1:{http}", "--grpc-addr", f"127.0.0.1:{grpc}"]

    def script(name: str, file: str, port: int, *arguments: str) -> Program:
        command = [str(python), str(HERE / file), *arguments, "--port", str(port)]
        return Program(name, command, f"http://127.0.0.1:{port}", "/health", logs / f"{name}.log", reg_url)

    return [
        Program("registry", dev, reg_url, "/readyz", logs / "registry.log", reg_url),
        script("email-svc", "kiosk.py", email, "email-svc"),
        script("photo-svc", "kiosk.py", photo, "photo-svc"),
        script("gateway", "gateway.py", gateway),
    ]


def registry_binary() -> Path:
    """The registry to run; built if there is none."""
    if named := os.environ.get("SPINE_BIN"):
        return Path(named)
    built = TARGET / "release" / "spine"
    if not built.exists():
        print("building the registry: some minutes, the first time", flush=True)
        must(["cargo", "build", "--release", "--bin", "spine"])
    return built


def environment(directory: Path) -> Path:
    """The interpreter of a virtual environment with the pinned packages and `hms_spine`; made at the first start."""
    made_from = hashlib.sha256()
    for part in (HERE / "requirements.txt", PACKAGE / "pyproject.toml"):
        made_from.update(part.read_bytes())
    made_from.update(f"{PACKAGE} {sys.version}".encode())
    stamp = directory / "made-from"
    python = directory / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != made_from.hexdigest():
        print("installing the Python packages, the first time", flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        venv.create(directory, with_pip=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
        must([*pip, "--requirement", str(HERE / "requirements.txt")])
        must([*pip, "--no-build-isolation", "--editable", str(PACKAGE)])
        stamp.write_text(made_from.hexdigest())
    return python


def must(command: list[str]) -> None:
    """Run something that has to succeed."""
    try:
        subprocess.run(command, cwd=ROOT, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Trouble(str(error)) from error


def obey(line: str, by_name: dict[str, Program]) -> None:
    """Carry out one command, and say how things are."""
    verb, _, name = line.strip().partition(" ")
    chosen = [by_name[name]] if name in by_name else []
    if verb == "status":
        chosen = list(by_name.values())
    elif chosen and verb == "start":
        chosen[0].start()
        chosen[0].wait()
    elif chosen and verb == "stop":
        chosen[0].stop()
    elif chosen and verb == "kill":
        chosen[0].stop(signal.SIGKILL)
    else:
        print(f"commands: start|stop|kill {'|'.join(by_name)}, status, quit", flush=True)
    for program in chosen:
        print(program.told(), flush=True)


def demonstrate(all_programs: list[Program]) -> None:
    """Start them, obey until the input ends or says `quit`, and end them."""
    registry, *others = all_programs
    gateway = others[-1]
    try:
        # The others need it to be there; among each other they need nothing.
        for together in ([registry], others):
            for program in together:
                program.start()
            for program in together:
                program.wait()
                print(program.told(), flush=True)
        print(f"watch:  {registry.url}/ui/", flush=True)
        print(f"try:    curl -X POST {gateway.url}/email/apply", flush=True)
        print("ready: start|stop|kill NAME, status, quit", flush=True)
        by_name = {program.name: program for program in all_programs}
        for line in sys.stdin:
            if line.strip() == "quit":
                break
            if line.strip():
                obey(line, by_name)
    finally:
        # The registry last: the kiosks take themselves out of it.
        for program in reversed(all_programs):
            program.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ports = "8500,8502,5001,5002,8080"
    parser.add_argument("--ports", default=ports, help=f"registry, its gRPC, email-svc, photo-svc, gateway [{ports}]")
    home = TARGET / "demo"
    parser.add_argument("--home", type=Path, default=home, help=f"where environment and logs go [{home}]")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if sys.version_info < PYTHON:
            raise Trouble(f"Python {sys.version.split()[0]} runs this; its packages need {PYTHON[0]}.{PYTHON[1]} or newer")
        logs = options.home.resolve() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        numbers = [int(port) for port in options.ports.split(",")]
        demonstrate(programs(numbers, registry_binary(), environment(options.home.resolve() / "python"), logs))
    except KeyboardInterrupt:
        pass
    except Trouble as trouble:
        print(f"demo: {trouble}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
