#!/usr/bin/env python3
"""The daemon with its token in a worker process: it serves as before, outlives the worker, shows it, and takes it along at its end."""
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import unittest

from botocore.exceptions import ClientError

from hardplate import BIN, Daemon, wait_until

SSE = {"ServerSideEncryption": "aws:kms"}


def is_gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Worker(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(extra=["--isolation", "worker"])
        self.addCleanup(self.daemon.remove)
        self.s3 = self.daemon.s3()
        self.s3.create_bucket(Bucket="bucket")

    def facts(self):
        code, status, _ = self.daemon.admin("GET", "kms/status")
        self.assertEqual(code, 200)
        return find(status, "isolation")

    def put(self, key, body):
        self.s3.put_object(Bucket="bucket", Key=key, Body=body, **SSE)

    def get(self, key):
        return self.s3.get_object(Bucket="bucket", Key=key)["Body"].read()

    def test_it_is_shown_and_serves(self):
        facts = self.facts()
        self.assertEqual((facts["isolation"], facts["worker_restarts"]), ("worker", 0))
        self.assertEqual(pathlib.Path(f"/proc/{facts['worker_pid']}/comm").read_text().strip(), "hardplate-token")
        self.put("one", b"1" * 70000)
        self.assertEqual(self.get("one"), b"1" * 70000)

    def test_its_death_under_load_costs_no_object(self):
        self.put("before", b"before")
        stored, refused, wrong, over = [], [], [], threading.Event()

        def load(number):
            s3, count = self.daemon.s3(), 0
            while not over.is_set():
                key, count = f"{number}/{count}", count + 1
                try:
                    s3.put_object(Bucket="bucket", Key=key, Body=key.encode() * 100, **SSE)
                    stored.append(key)
                except ClientError as error:
                    code = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    (refused if code in (500, 503) else wrong).append((key, code))
        threads = [threading.Thread(target=load, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            pid = self.facts()["worker_pid"]
            if pid:
                os.kill(pid, signal.SIGKILL)
                self.assertTrue(wait_until(lambda: is_gone(pid)))
            self.assertTrue(wait_until(lambda: self.works()), "ready again")
        over.set()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertGreater(len(stored), 0)
        for key in stored:
            self.assertEqual(self.get(key), key.encode() * 100)
        for key, _ in refused:
            with self.assertRaises(ClientError):
                self.get(key)
        self.assertEqual(self.get("before"), b"before")
        self.assertGreaterEqual(self.facts()["worker_restarts"], 5)
        self.assertIn("pkcs11.worker_lost", self.daemon.log_text())

    def works(self):
        try:
            self.put("again", b"again")
            return self.get("again") == b"again"
        except ClientError:
            return False

    def test_it_ends_with_the_daemon(self):
        for kill in (False, True):
            pid = self.facts()["worker_pid"]
            self.daemon.stop(kill=kill)
            self.assertTrue(wait_until(lambda: is_gone(pid)), f"kill={kill}")
            self.daemon.start()
            self.s3 = self.daemon.s3()

    def test_reconfigured_the_old_worker_goes(self):
        first = self.facts()["worker_pid"]
        self.put("kept", b"kept")
        code, answer, _ = self.daemon.admin("POST", "kms/reconfigure", {"backend_type": "pkcs11", "token": "dev", "default_key_id": "hardplate-dev"})
        self.assertEqual(code, 200, answer)
        second = self.facts()["worker_pid"]
        self.assertTrue(second == first or wait_until(lambda: is_gone(first)))
        self.assertEqual(self.get("kept"), b"kept")

    def test_what_was_stored_one_way_is_read_the_other(self):
        self.put("kept", b"kept")
        self.daemon.stop()
        self.daemon.extra = []
        self.daemon.start()
        self.s3 = self.daemon.s3()
        self.assertEqual(self.get("kept"), b"kept")
        self.assertEqual(self.facts()["isolation"], "inprocess")


class File(unittest.TestCase):
    """A configuration file: the worker is what it gets unless it says otherwise."""

    def test_check_opens_the_token_in_a_worker(self):
        daemon = Daemon()
        self.addCleanup(daemon.remove)
        daemon.stop()
        for isolation, says in (("", True), ("isolation: worker\n", True), ("isolation: inprocess\n", False)):
            code, out = self.check(daemon, isolation)
            self.assertEqual((code, "in a worker process" in out), (0, says), out)
        for text, word in (("isolation: elsewhere\n", "worker or inprocess"), ("tokend: {watchdog_ms: 5}\n", "watchdog_ms"),
                           ("tokend: {user: no-such-user-here}\n", "no-such-user-here"), ("tokend: {environment: [LD_PRELOAD]}\n", "LD_PRELOAD"),
                           ("tokend: {program: /bin/sh}\n", "program")):
            code, out = self.check(daemon, text)
            self.assertEqual(code, 1, out)
            self.assertIn(word, out)

    def check(self, daemon, more):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(f"state_dir: {daemon.folder}\nlisten: 127.0.0.1:0\n{more}tokens:\n  - name: dev\n    uri: 'pkcs11:token=hardplate-dev'\n"
                       f"    module: /usr/lib/softhsm/libsofthsm2.so\n    pin_source: file:{daemon.folder}/token/pin\n")
            file.flush()
            done = subprocess.run([BIN / "hardplated", "--config", file.name, "--check"], capture_output=True, text=True, timeout=120,
                                  env={**os.environ, "SOFTHSM2_CONF": f"{daemon.folder}/token/softhsm2.conf"})
            return done.returncode, done.stdout + done.stderr


def find(value, name):
    """The object that has this member, wherever it is."""
    if isinstance(value, dict):
        if name in value:
            return value
        value = value.values()
    elif not isinstance(value, list):
        return None
    return next((found for found in (find(one, name) for one in value) if found), None)


if __name__ == "__main__":
    unittest.main()
