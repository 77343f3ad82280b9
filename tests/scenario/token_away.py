#!/usr/bin/env python3
"""A token that is taken away under load and comes back: 503 and nothing else meanwhile, in use again within five seconds, without a restart.
HPL_AWAY_SECONDS: how long it is away (default 6)."""
import os
import threading
import time
import unittest

from hardplate import Daemon

AWAY_S, BACK_S, THREADS = float(os.environ.get("HPL_AWAY_SECONDS", "6")), 5.0, 4


class TokenAway(unittest.TestCase):
    isolation = "inprocess"

    def setUp(self):
        self.daemon = Daemon(extra=("--isolation", self.isolation))
        self.addCleanup(self.daemon.remove)
        status, answer, _ = self.daemon.admin("POST", "kms/keys", {"Tags": {"name": "away"}})
        self.assertEqual(status, 200, answer)
        status, self.made, _ = self.daemon.admin("POST", "kms/generate-data-key", {"key_id": "away"})
        self.assertEqual(status, 200, self.made)
        self.answers, self.should_stop = [], False

    def load(self):
        while not self.should_stop:
            for path, body in (("kms/decrypt", {"ciphertext_blob": self.made["ciphertext_blob"]}), ("kms/generate-data-key", {"key_id": "away"})):
                asked = time.monotonic()
                status, answer, _ = self.daemon.admin("POST", path, body)
                self.answers.append((asked, status, answer))
            time.sleep(0.02)

    def test_it_is_unavailable_and_then_in_use_again(self):
        here = self.daemon.folder / "token/tokens"
        away = self.daemon.folder / "token/away"
        threads = [threading.Thread(target=self.load) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        here.rename(away)
        time.sleep(AWAY_S)
        away.rename(here)
        back = time.monotonic()
        time.sleep(BACK_S + 3)
        self.should_stop = True
        for thread in threads:
            thread.join(60)
        wrong = [(status, answer) for _, status, answer in self.answers if status not in (200, 503)]
        self.assertEqual(wrong, [], "only 200 and 503 are right")
        last_bad = max((asked for asked, status, _ in self.answers if status != 200), default=None)
        self.assertIsNotNone(last_bad, "nobody noticed that the token was away")
        took = last_bad - back
        print(f"{self.isolation}: away for {AWAY_S:.0f} s: {sum(status == 503 for _, status, _ in self.answers)} of {len(self.answers)} requests were 503, "
              f"the last of them was sent {took:.1f} s after it was back")
        self.assertLess(took, BACK_S)
        status, answer, _ = self.daemon.admin("GET", "kms/keys/away")
        self.assertEqual(status, 200, answer)
        self.assertNotIn("estroy", str(answer.get("key_metadata", answer).get("key_state", "")))
        self.assertIsNone(self.daemon.process.poll())


class TokenAwayFromWorker(TokenAway):
    isolation = "worker"


if __name__ == "__main__":
    unittest.main()
