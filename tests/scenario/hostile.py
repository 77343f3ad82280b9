"""Clients that break off, stall past every deadline, pipeline and never read, reset: meanwhile honest requests are answered, and the daemon ends in order.

HARDPLATE_HOSTILE_SECONDS: how long each part takes (default 5); HARDPLATE_HOSTILE_SEED: what an earlier run printed.
"""
import os
import pathlib
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import unittest

from hardplate import BIN, AWSRequest, Config, Credentials, S3SigV4Auth, boto3, told_endpoint

SECONDS = float(os.environ.get("HARDPLATE_HOSTILE_SECONDS", 5))
SEED = int(os.environ.get("HARDPLATE_HOSTILE_SEED", random.SystemRandom().randrange(1 << 32)))
NUM_HOSTILE = 12
DEADLINE_S = 1
SECRET = "s" * 40


class House:
    """hardplated from a file that gives clients a second for everything."""

    def __init__(self, is_tls):
        self.folder, self.is_tls = pathlib.Path(tempfile.mkdtemp(prefix="hpl-hostile-")), is_tls
        if is_tls:
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=localhost",
                            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", self.folder / "key.pem", "-out", self.folder / "cert.pem"],
                           check=True, stderr=subprocess.DEVNULL)
        (self.folder / "ops.secret").write_text(SECRET)
        (self.folder / "ops.secret").chmod(0o400)
        tls = f"tls: {{certificate: {self.folder}/cert.pem, key: {self.folder}/key.pem}}" if is_tls else ""
        (self.folder / "c.yaml").write_text(f"""
state_dir: {self.folder}/state
listen: 127.0.0.1:0
log_level: error
drain_seconds: 2
{tls}
http: {{head_seconds: {DEADLINE_S}, idle_seconds: {DEADLINE_S}, write_seconds: {DEADLINE_S}}}
credentials: [{{access_key: ops, secret_file: {self.folder}/ops.secret, role: admin}}]
kms: {{backend_type: local, default_key_id: app-default}}
""")
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen([str(BIN / "hardplated"), "--config", str(self.folder / "c.yaml")], stdout=subprocess.PIPE, stderr=self.log)
        self.endpoint = told_endpoint(self.process)
        self.port = int(self.endpoint.rsplit(":", 1)[1])

    def s3(self):
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id="ops", aws_secret_access_key=SECRET,
                            verify=str(self.folder / "cert.pem") if self.is_tls else None,
                            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 4}, read_timeout=30)) # a second may be too short for an honest client of a busy machine

    def dial(self):
        link = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        if self.is_tls:
            context = ssl.create_default_context(cafile=str(self.folder / "cert.pem"))
            link = context.wrap_socket(link, server_hostname="127.0.0.1")
        return link

    def signed(self, method, path, length=0, headers=()):
        request = AWSRequest(method, self.endpoint + path, headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD", **dict(headers)})
        S3SigV4Auth(Credentials("ops", SECRET), "s3", "us-east-1").add_auth(request)
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in request.headers.items() if name.lower() != "host"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def end(self):
        """How it ended after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return f"still there after 30 s, {self.process.wait()}"

    def remove(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def leave(link, chance):
    """In one of the ways that clients leave."""
    way = chance.randrange(4)
    raw = link
    if way == 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)) # a reset
    elif way == 1:
        raw.shutdown(socket.SHUT_WR)
    elif way == 2:
        time.sleep(DEADLINE_S * chance.uniform(0.9, 1.3))
        raw.send(b"x")
    link.close()


def stall(chance):
    time.sleep(chance.choice((0, 0.01, DEADLINE_S * 0.5, DEADLINE_S * chance.uniform(0.97, 1.05))))


def cut_head(house, link, chance):
    head = house.signed("GET", "/box/large")
    at = chance.randrange(1, len(head))
    link.sendall(head[:at])
    stall(chance)
    link.sendall(head[at:at + chance.randrange(len(head))])


def cut_body(house, link, chance):
    body = os.urandom(chance.choice((10, 5000, 200000, 3000000)))
    path = f"/box/cut-{chance.randrange(8)}"
    kind = chance.choice(({}, {"x-amz-server-side-encryption": "aws:kms"}, {"Expect": "100-continue"}))
    link.sendall(house.signed("PUT", path, len(body), kind))
    at = chance.randrange(len(body) + 1)
    link.sendall(body[:at])
    stall(chance)
    link.sendall(body[at:at + 70000])


def never_read(house, link, chance):
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.settimeout(3)
    request = chance.choice((house.signed("GET", "/box/large"), b"GET /hardplate/metrics HTTP/1.1\r\nHost: h\r\n\r\n", house.signed("GET", "/box?list-type=2")))
    for _ in range(chance.choice((1, 30, 400))):
        link.sendall(request)
    stall(chance)
    link.recv(chance.choice((1, 1000, 100000)))
    stall(chance)


def changed(house, link, chance):
    head = bytearray(house.signed(chance.choice(("GET", "PUT", "POST", "DELETE")), chance.choice(("/box/large", "/box?delete", "/box/m?uploads", "/rustfs/admin/v3/kms/status"))))
    for _ in range(chance.randrange(1, 6)):
        head[chance.randrange(len(head))] = chance.randrange(256)
    link.sendall(bytes(head) + os.urandom(chance.randrange(2000)))
    stall(chance)
    link.settimeout(0.2)
    link.recv(4096)


def parts(house, link, chance):
    s3 = house.s3()
    key = f"m-{chance.randrange(4)}"
    upload = s3.create_multipart_upload(Bucket="box", Key=key)["UploadId"]
    link.sendall(house.signed("PUT", f"/box/{key}?partNumber=1&uploadId={upload}", 6000000))
    link.sendall(os.urandom(chance.randrange(2000000)))
    stall(chance)
    s3.abort_multipart_upload(Bucket="box", Key=key, UploadId=upload)
    link.sendall(os.urandom(10000))


def crowd(house, link, chance):
    """Many at once whose bytes come just when their second is over."""
    links = [house.dial() for _ in range(40)]
    try:
        for one in links:
            one.sendall(house.signed("PUT", "/box/crowd", 1000000) + b"x")
        time.sleep(DEADLINE_S * 0.9)
        until = time.time() + DEADLINE_S * 0.3
        while time.time() < until:
            for one in links:
                try:
                    one.send(b"x")
                except OSError:
                    pass
    finally:
        for one in links:
            one.close()


class Hostile:
    is_tls = False

    def setUp(self):
        self.house = House(self.is_tls)
        self.addCleanup(self.house.remove)
        self.body = os.urandom(4000000)
        s3 = self.house.s3()
        s3.create_bucket(Bucket="box")
        s3.put_object(Bucket="box", Key="large", Body=self.body, ServerSideEncryption="aws:kms")

    def be_hostile(self, number, until):
        chance = random.Random(SEED * 100 + number)
        while time.time() < until():
            try:
                link = self.house.dial()
                try:
                    chance.choice((cut_head, cut_body, cut_body, never_read, changed, parts, crowd))(self.house, link, chance)
                finally:
                    leave(link, chance)
            except Exception: # whatever the daemon does to such a client is right
                pass

    def start_hostile(self, until):
        threads = [threading.Thread(target=self.be_hostile, args=(i, until)) for i in range(NUM_HOSTILE)]
        for thread in threads:
            thread.start()
        return threads

    def test_honest_requests_are_answered_and_the_daemon_ends_in_order(self):
        print(f"HARDPLATE_HOSTILE_SEED={SEED}", flush=True)
        end = [time.time() + SECONDS]
        threads = self.start_hostile(lambda: end[0])
        s3, num_honest = self.house.s3(), 0
        try:
            while time.time() < end[0]:
                s3.put_object(Bucket="box", Key="honest", Body=self.body[:num_honest * 1000], ServerSideEncryption="aws:kms")
                self.assertEqual(s3.get_object(Bucket="box", Key="honest")["Body"].read(), self.body[:num_honest * 1000])
                num_honest += 1
            end[0] = time.time() + 4 # and while it ends
            code = self.house.end()
        finally:
            end[0] = 0
            for thread in threads:
                thread.join()
        self.assertEqual(code, 0, (self.house.folder / "log").read_text()[-3000:])
        self.assertGreater(num_honest, SECONDS)


class OverTcp(Hostile, unittest.TestCase):
    pass


class OverTls(Hostile, unittest.TestCase):
    is_tls = True


if __name__ == "__main__":
    unittest.main(verbosity=2)
