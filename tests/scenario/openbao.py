"""An OpenBao for scenarios: real storage, so that it can be sealed, killed and started again; and a proxy that makes faults.

Imported by vault.py; a scenario by itself it is not. HPL_OPENBAO_DIR names the part's folder, else scripts/part is asked.
"""
import atexit
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


def program():
    folder = os.environ.get("HPL_OPENBAO_DIR")
    if not folder:
        found = subprocess.run([ROOT / "scripts/part", "openbao"], capture_output=True, text=True)
        folder = found.stdout.strip() if found.returncode == 0 else None
    if folder:
        return pathlib.Path(folder) / "bao"
    print("FAILED (CI needs it) OpenBao: cannot be had" if os.environ.get("CI") == "true" else "SKIP OpenBao: cannot be had")
    sys.exit(1 if os.environ.get("CI") == "true" else 77)


def free_ports(count):
    """So many different ones: they are all held until the last is known."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Bao:
    """One server with file storage. tls: (certificate, key, client CA) for a second listener that wants client certificates."""

    def __init__(self, tls=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hpl-bao-"))
        self.program, (self.port, self.tls_port, cluster_port) = program(), free_ports(3)
        self.address, self.tls_address = f"http://127.0.0.1:{self.port}", f"https://127.0.0.1:{self.tls_port}"
        self.process = None
        listeners = f'listener "tcp" {{\n address = "127.0.0.1:{self.port}"\n tls_disable = true\n}}\n'
        if tls:
            listeners += (f'listener "tcp" {{\n address = "127.0.0.1:{self.tls_port}"\n cluster_address = "127.0.0.1:{cluster_port}"\n tls_cert_file = "{tls[0]}"\n'
                          f' tls_key_file = "{tls[1]}"\n tls_client_ca_file = "{tls[2]}"\n tls_require_and_verify_client_cert = true\n}}\n')
        (self.folder / "config.hcl").write_text(
            f'storage "file" {{\n path = "{self.folder}/data"\n}}\n{listeners}api_addr = "{self.address}"\ndisable_mlock = true\nui = false\n')
        atexit.register(self.remove)
        self.start()
        made = self.api("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token=None)
        self.key, self.root = made["keys_base64"][0], made["root_token"]
        self.unseal()

    def start(self):
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([self.program, "server", f"-config={self.folder}/config.hcl"], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            env={**os.environ, "HOME": str(self.folder)})
        self.wait(lambda: self.code("sys/health?sealedcode=200&uninitcode=200") == 200)

    def kill(self):
        self.process.kill()
        self.process.wait(30)

    def remove(self):
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait(self, condition, seconds=60):
        deadline = time.time() + seconds
        while time.time() < deadline:
            try:
                if condition():
                    return
            except (OSError, http.client.HTTPException, RuntimeError):
                pass
            time.sleep(0.05)
        raise RuntimeError("OpenBao did not come to it:\n" + (self.folder / "log").read_text()[-2000:])

    def code(self, path):
        try:
            return urllib.request.urlopen(f"{self.address}/v1/{path}", timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code

    def unseal(self):
        self.api("PUT", "sys/unseal", {"key": self.key}, token=None)
        self.wait(lambda: self.code("sys/health") == 200)

    def seal(self):
        self.api("PUT", "sys/seal")

    def api(self, method, path, body=None, token="root", namespace=None):
        """The parsed answer; RuntimeError for a refusal."""
        headers = {"Content-Type": "application/json"}
        if token:
            headers["X-Vault-Token"] = self.root if token == "root" else token
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.address}/v1/{path}", data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read()[:300]}") from None
        return json.loads(text) if text else {}

    def mount(self, namespace=None, transit="transit", kv="secret"):
        self.api("POST", f"sys/mounts/{transit}", {"type": "transit"}, namespace=namespace)
        self.api("POST", f"sys/mounts/{kv}", {"type": "kv", "options": {"version": "2"}}, namespace=namespace)
        # A new KV mount upgrades itself for a moment.
        self.wait(lambda: self.api("POST", f"{kv}/data/warm", {"data": {"x": 1}}, namespace=namespace))

    def policy(self, name, text):
        self.api("PUT", f"sys/policies/acl/{name}", {"policy": text})

    def token(self, policies, **options):
        """A token with these policies and nothing else."""
        return self.api("POST", "auth/token/create", {"policies": policies, "no_default_policy": True, "no_parent": True, **options})["auth"]["client_token"]

    def approle(self, policies, **options):
        """(role_id, secret_id)"""
        if "approle/" not in self.api("GET", "sys/auth"):
            self.api("POST", "sys/auth/approle", {"type": "approle"})
        self.api("POST", "auth/approle/role/hardplate", {"token_policies": policies, "token_no_default_policy": True, **options})
        return (self.api("GET", "auth/approle/role/hardplate/role-id")["data"]["role_id"],
                self.api("POST", "auth/approle/role/hardplate/secret-id", {})["data"]["secret_id"])


class Proxy:
    """Stands before a server; mode decides what happens to the next requests: "pass", or a function (handler, forward) that answers itself."""

    def __init__(self, port):
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def forward(self):
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                upstream.request(self.command, self.path, self.body, {k: v for k, v in self.headers.items() if k.lower() != "host"})
                answer = upstream.getresponse()
                text = answer.read()
                upstream.close()
                self.answer(answer.status, text)

            def answer(self, code, text=b"{}", headers=()):
                self.send_response(code)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def handle_any(self):
                self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with proxy.lock:
                    proxy.seen.append((self.command, self.path))
                    fault = proxy.faults.pop(0) if proxy.faults else proxy.mode
                try:
                    fault(self) if callable(fault) else self.forward()
                except OSError:
                    self.close_connection = True

            do_GET = do_POST = do_PUT = do_DELETE = do_LIST = handle_any

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass

        self.lock, self.seen, self.faults, self.mode = threading.Lock(), [], [], "pass"
        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
