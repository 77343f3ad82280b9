"""What scenarios share: a daemon of their own in a folder of their own, signed admin requests, S3 clients.

A scenario is a plain unittest program. HARDPLATE_BIN names the folder with hardplated (default: build/release/bin).
"""
import atexit
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

try:
    import boto3
    from botocore.auth import S3SigV4Auth, SigV4Auth  # noqa: F401
    from botocore.awsrequest import AWSRequest
    from botocore.config import Config
    from botocore.credentials import Credentials
except ImportError:
    print("FAILED (CI needs it) boto3: not installed" if os.environ.get("CI") == "true" else "SKIP boto3: not installed")
    sys.exit(1 if os.environ.get("CI") == "true" else 77)

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("HARDPLATE_BIN", ROOT / "build/release/bin"))
ADMIN = "/rustfs/admin/v3/"

# Whatever stands between this machine and the world stands not between a test and its daemon.
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1")))


class Daemon:
    """One hardplated --dev in a private folder; stopped and removed at exit."""

    def __init__(self, backend="pkcs11", folder=None, extra=(), prefix=()):
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="hpl-scenario-"))
        self.backend, self.extra, self.prefix, self.process = backend, list(extra), list(prefix), None
        atexit.register(self.remove)
        self.start()

    def start(self, listen="127.0.0.1:0"):
        (self.folder / "pid").unlink(missing_ok=True)
        self.log = open(str(self.folder) + ".log", "ab")
        with self.log:
            self.process = subprocess.Popen(
                [*self.prefix, str(BIN / "hardplated"), "--dev", str(self.folder), "--listen", listen, "--backend", self.backend, *self.extra],
                stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        if not wait_until(lambda: self.is_started() or self.process.poll() is not None) or not self.is_started():
            raise RuntimeError("hardplated did not start:\n" + self.log_text()[-2000:])
        self.read_env()
        return self

    def is_started(self):
        return (self.folder / "pid").exists()

    def read_env(self):
        self.env = {}
        for line in (self.folder / "env").read_text().splitlines():
            if "=" in line and not line.startswith(("#", "export ")):
                name, value = line.split("=", 1)
                self.env[name] = shlex.split(value)[0] if value else ""
        self.endpoint = self.env["HARDPLATE_ENDPOINT"]
        self.listen = self.endpoint.split("://", 1)[1]

    def stop(self, kill=False):
        if self.process and self.process.poll() is None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(60)
        code = self.process.returncode if self.process else None
        self.process = None
        return code

    def restart(self, kill=False):
        listen = self.listen
        self.stop(kill)
        return self.start(listen)

    def remove(self):
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            pathlib.Path(str(self.folder) + ".log").unlink(missing_ok=True)

    def log_text(self):
        return pathlib.Path(str(self.folder) + ".log").read_text(errors="replace")

    def s3(self, user=True, **config):
        who = "USER_" if user else ""
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name=self.env["HARDPLATE_REGION"],
            aws_access_key_id=self.env[f"HARDPLATE_{who}ACCESS_KEY"], aws_secret_access_key=self.env[f"HARDPLATE_{who}SECRET_KEY"],
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **config))

    def admin(self, method, path, body=None, access_key=None, secret_key=None, sign=True, raw=None, headers=None):
        """(status, parsed JSON or None, headers) of one admin request."""
        data = raw if raw is not None else (json.dumps(body).encode() if body is not None else b"")
        request = AWSRequest(method, self.endpoint + ADMIN + path, data=data, headers={"Content-Type": "application/json", **(headers or {})})
        if sign:
            request.headers["x-amz-content-sha256"] = hashlib.sha256(data).hexdigest()
            credentials = Credentials(access_key or self.env["HARDPLATE_ACCESS_KEY"], secret_key or self.env["HARDPLATE_SECRET_KEY"])
            S3SigV4Auth(credentials, "s3", self.env["HARDPLATE_REGION"]).add_auth(request)
        prepared = request.prepare()
        sent = urllib.request.Request(prepared.url, data=data or None, headers=dict(prepared.headers), method=method)
        try:
            with urllib.request.urlopen(sent, timeout=60) as answer:
                return answer.status, parse(answer.read()), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, parse(error.read()), error.headers


class FileDaemon(Daemon):
    """One that reads a configuration file: an administrator, and the caller's lines."""

    def __init__(self, lines):
        self.lines = lines
        super().__init__(backend="file")

    def configure(self, listen):
        secret = self.folder / "ops.secret"
        if not secret.exists():
            secret.write_text("s" * 40 + "\n")
            secret.chmod(0o600)
        (self.folder / "c.yaml").write_text(f"state_dir: {self.folder}/state\nlisten: {listen}\n"
                                            f"credentials: [{{access_key: ops, secret_file: {secret}, role: admin}}]\n{self.lines}")

    def start(self, listen="127.0.0.1:0"):
        self.configure(listen)
        self.log = open(str(self.folder) + ".log", "ab")
        with self.log:
            self.process = subprocess.Popen([str(BIN / "hardplated"), "--config", str(self.folder / "c.yaml")], stdout=subprocess.PIPE, stderr=self.log,
                                            stdin=subprocess.DEVNULL)
        self.endpoint = told_endpoint(self.process)
        self.process.stdout.close()
        if not self.endpoint:
            raise RuntimeError("hardplated did not start:\n" + self.log_text()[-2000:])
        self.listen = self.endpoint.split("://", 1)[1]
        self.env = {"HARDPLATE_ACCESS_KEY": "ops", "HARDPLATE_SECRET_KEY": "s" * 40, "HARDPLATE_REGION": "us-east-1"}
        return self


def wait_until(condition, seconds=60):
    """Whether it came true: asked again and again, for longer than a loaded machine takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def told_endpoint(process):
    """Where a daemon listens, by its first line on standard output; None when it ended without one."""
    found = re.search(r"https?://\S+", process.stdout.readline().decode())
    return found and found.group()


def parse(data):
    return json.loads(data) if data else None
