#!/usr/bin/env python3
"""A backend that goes away and comes back: the breaker, and what an outage choice serves meanwhile, over a real OpenBao that is killed and sealed."""
import secrets
import time
import unittest

from hardplate import Daemon, wait_until
from openbao import Bao

BAO = None


def setUpModule():
    global BAO
    BAO = Bao()
    BAO.mount()


def tearDownModule():
    BAO.remove()


class Outage(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(backend="none")
        self.addCleanup(self.daemon.remove)
        self.names = {name: name + "-" + secrets.token_hex(4) for name in ("closed", "kept")}
        body = {"backend_type": "vault", "address": BAO.address, "auth_method": {"token": BAO.root}, "key_path_prefix": "rustfs/kms/keys/" + secrets.token_hex(6),
                "retry_attempts": 0, "timeout_seconds": 5, "default_key_id": self.names["closed"]}
        self.ask("kms/configure", body)
        self.ask("kms/start")
        for name, caching in (("closed", {}), ("kept", {"outage": {"cache_seconds": 600}})):
            self.ask("kms/keys", {"Tags": {"name": self.names[name]}})
            self.ask("kms/keys/caching", {"key_id": self.names[name], **caching}, method="PUT")
        self.made = {name: self.ask("kms/generate-data-key", {"key_id": self.names[name]}) for name in ("closed", "kept")}
        self.unread = self.ask("kms/generate-data-key", {"key_id": self.names["kept"]})
        for made in self.made.values():
            self.assertEqual(self.opens(made)[0], 200)

    def ask(self, path, body=None, method="POST"):
        status, answer, _ = self.daemon.admin(method, path, body)
        self.assertEqual(status, 200, answer)
        return answer

    def opens(self, made):
        return self.daemon.admin("POST", "kms/decrypt", {"ciphertext_blob": made["ciphertext_blob"]})

    def status(self):
        return self.ask("kms/status", method="GET")

    def live_through(self):
        """While the backend is away."""
        for _ in range(3):
            code, answer, _ = self.opens(self.made["kept"])
            self.assertEqual((code, answer.get("plaintext_key")), (200, self.made["kept"]["plaintext_key"]), answer)
        code, answer, headers = self.opens(self.made["closed"])
        self.assertEqual(code, 503, answer)
        self.assertGreaterEqual(int(headers["Retry-After"]), 1)
        self.assertEqual(self.opens(self.unread)[0], 503, "nothing that was not opened before")
        self.assertEqual(self.daemon.admin("POST", "kms/generate-data-key", {"key_id": self.names["kept"]})[0], 503, "no new keys")
        status = self.status()
        self.assertIn(status["details"]["breaker"], ("open", "half-open"))
        self.assertGreaterEqual(status["decrypt_cache"]["served_in_outage"], 3)
        self.assertEqual((status["healthy"], status["health"]), (False, "Failed"))
        self.assertIn("kms.outage.served_from_cache", self.daemon.log_text())
        self.assertIn("kms.breaker.opened", self.daemon.log_text())

    def comes_back(self):
        # Within five seconds on a machine that is not busy otherwise.
        self.assertTrue(wait_until(lambda: self.opens(self.made["closed"])[0] == 200), "still refused")
        self.assertEqual(self.opens(self.unread)[0], 200)
        self.assertEqual(self.status()["details"]["breaker"], "closed")

    def test_killed(self):
        BAO.kill()
        try:
            self.live_through()
            began = time.monotonic()
            for _ in range(20):
                self.assertEqual(self.opens(self.made["closed"])[0], 503)
            self.assertLess(time.monotonic() - began, 50, "refused at once, not after a time-out of five seconds each")
        finally:
            BAO.start()
            BAO.unseal()
        self.comes_back()

    def test_sealed(self):
        BAO.seal()
        try:
            self.live_through()
        finally:
            BAO.unseal()
        self.comes_back()


if __name__ == "__main__":
    unittest.main(verbosity=1)
