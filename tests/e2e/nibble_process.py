"""The real binary as a child process: `nibble serve` on free ports, and one-shot commands."""

import json
import os
import pathlib
import signal
import subprocess
import time
import urllib.request

START_SECONDS = 120  # a loaded machine; a bound on hanging, not a measurement
WAIT_SECONDS = 60


def wait_until(condition, what, seconds=WAIT_SECONDS):
    """Polls; the only way these tests wait. Returns the condition's first true value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s")


def clean_environment(more=None):
    """Ours without NIBBLE_*: every flag has such a twin, NIBBLE_MODEL among them."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("NIBBLE_")}
    return {**ours, **(more or {})}


def run(binary, *args, stdin=None, timeout=180, env=None):
    """One command to its end: CompletedProcess with text streams."""
    return subprocess.run(
        [str(binary), *map(str, args)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean_environment(env),
        check=False,
    )


class NibbleServer:
    """`nibble serve`, its ports and its log. `flags` may override the small defaults below.

    With `stderr=subprocess.PIPE` the log is `process.stderr`, and log() is empty.
    """

    DEFAULTS = {
        "--threads": "2",
        "--max-context": "2048",
        "--kv-cache-mib": "128",
        "--listen": "127.0.0.1:0",
        "--metrics-listen": "127.0.0.1:0",
        "--admin-listen": "127.0.0.1:0",
    }

    def __init__(self, binary, model, folder, stderr=subprocess.STDOUT, **flags):
        folder = pathlib.Path(folder)
        self.port_file, self.log_path = folder / "ports.json", folder / "log.jsonl"
        chosen = {**self.DEFAULTS, **{"--" + k.replace("_", "-"): str(v) for k, v in flags.items()}}
        command = [str(binary), "serve", "--model", str(model), "--port-file", str(self.port_file)]
        command += [f"{k}={v}" for k, v in chosen.items()]
        self._log = open(self.log_path, "wb")
        self.process = subprocess.Popen(
            command, stdout=self._log, stderr=stderr, env=clean_environment()
        )
        try:
            wait_until(self._has_ports, "port file", START_SECONDS)
        except AssertionError:
            self.process.kill()
            raise
        ports = json.loads(self.port_file.read_text())
        self.grpc, self.metrics_port, self.admin = ports["grpc"], ports["metrics"], ports["admin"]
        self.target = f"127.0.0.1:{self.grpc}"

    def _has_ports(self):
        code = self.process.poll()
        if code is not None:
            raise AssertionError(
                f"nibble serve ended with {code} before serving:\n{self.log()[-3000:]}"
            )
        return self.port_file.exists()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def metrics_text(self):
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10
        ) as response:
            return response.read().decode()

    def metric(self, name):
        """Sum over the labels of one metric; 0 when it has no series yet."""
        total = 0.0
        for line in self.metrics_text().splitlines():
            if line.split("{")[0].split(" ")[0] == name:
                total += float(line.rsplit(" ", 1)[1])
        return total

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds=WAIT_SECONDS):
        code = self.process.wait(seconds)
        self._log.close()
        return code

    def stop(self):
        """For fixtures: drained if it can be, killed if it cannot."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.wait()
