#!/usr/bin/env python3
"""The admin surface, asked from outside: lifecycle, keys, data keys, and what it refuses."""
import base64
import datetime
import json
import unittest
from urllib.parse import quote

from hardplate import Daemon


# Every route that needs a key service that runs.
NEED_IT = [("POST", "clear-cache", None), ("POST", "keys", {}), ("GET", "keys", None), ("GET", "keys/k", None), ("DELETE", "keys/delete", {"key_id": "k"}),
           ("POST", "keys/cancel-deletion", {"key_id": "k"}), ("POST", "keys/enable", {"key_id": "k"}), ("POST", "keys/disable", {"key_id": "k"}),
           ("POST", "keys/rotate", {"key_id": "k"}), ("GET", "keys/policy?key_id=k", None), ("PUT", "keys/policy", {"key_id": "k", "policy": None}),
           ("PUT", "keys/caching", {"key_id": "k"}), ("PUT", "keys/rotation", {"key_id": "k"}), ("POST", "keys/update-description", {"key_id": "k", "description": ""}),
           ("POST", "keys/tag", {"key_id": "k", "tags": {}}), ("POST", "keys/untag", {"key_id": "k", "tag_keys": []}), ("POST", "key/create?keyName=k", None),
           ("GET", "key/status?keyName=k", None), ("GET", "key/list", None), ("PUT", "key/enable?keyName=k", None), ("PUT", "key/disable?keyName=k", None),
           ("POST", "key/rotate?keyName=k", None), ("POST", "create-key", {}), ("GET", "list-keys", None), ("GET", "describe-key?keyId=k", None),
           ("POST", "generate-data-key", {}), ("POST", "generate-data-keys", {"count": 1}), ("POST", "decrypt", {"ciphertext_blob": "AAAA"}),
           ("POST", "rewrap", {"ciphertext_b64": "AAAA"}), ("POST", "backends/detach", {"instance": "0" * 16})]


class Lifecycle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(backend="none")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    def status(self):
        code, body, _ = self.daemon.admin("GET", "kms/status")
        self.assertEqual(code, 200)
        return body

    def all_are_refused(self, wanted):
        for method, path, body in NEED_IT:
            code, answer, headers = self.daemon.admin(method, "kms/" + path, body)
            self.assertEqual((code, answer["code"]), (503, wanted), path)
            self.assertGreater(int(headers["Retry-After"]), 0)

    def test_1_a_new_daemon_is_not_configured(self):
        self.assertEqual(self.status()["status"], "NotConfigured")
        code, body, _ = self.daemon.admin("POST", "kms/start")
        self.assertEqual((code, body["code"]), (503, "NotConfigured"))
        self.assertIn("configure", body["message"])
        self.assertEqual(self.daemon.admin("POST", "kms/stop")[1]["code"], "NotConfigured")
        self.assertEqual(self.daemon.admin("GET", "kms/config")[0], 404)
        self.assertEqual(self.daemon.admin("GET", "kms/backends")[1], {"backends": []})
        self.all_are_refused("NotConfigured")

    def test_2_bad_bodies_are_refused_by_name(self):
        for raw in (b"{", b"[]", b'{"backend_type": 5}', b'{"backend_type":"local","backend_type":"local"}', b"{}\0", b'"x"'):
            code, body, _ = self.daemon.admin("POST", "kms/configure", raw=raw)
            self.assertEqual(code, 400, raw)
            self.assertIn("code", body)
        for body in ({"backend_type": "floppy"}, {"backend_type": "local", "key_dir": "/etc/hardplate-keys"},
                     {"backend_type": "local", "cache_ttl_seconds": "600"}, {"backend_type": "pkcs11", "token": "dev", "pin": "1234"},
                     {"backend_type": "local", "file_permissions": "0600"}, {"backend_type": "local", "file_permissions": 0o644},
                     {"backend_type": "pkcs11", "token": "nobody"}, {"backend_type": "pkcs11", "token": "dev", "module": "/tmp/x.so"}):
            code, answer, _ = self.daemon.admin("POST", "kms/configure", body)
            self.assertEqual(code, 400, body)
            self.assertTrue(answer["message"])
        self.assertEqual(self.status()["status"], "NotConfigured")

    def test_3_configure_start_stop(self):
        body = json.loads(self.daemon.env["HARDPLATE_PKCS11_CONFIG"])
        code, answer, _ = self.daemon.admin("POST", "kms/configure", body)
        self.assertEqual((code, answer["success"], answer["status"]), (200, True, "Configured"), answer)
        for same in (body, dict(reversed(body.items())), {**body, "not_a_member": {"a": [1]}, "address": 5, "namespace": None}):
            self.assertEqual(self.daemon.admin("POST", "kms/configure", same)[0], 200, same)
        code, answer, _ = self.daemon.admin("POST", "kms/configure", {"backend_type": "local"})
        self.assertEqual((code, answer["code"]), (409, "Conflict"))
        self.all_are_refused("NotRunning")
        code, answer, _ = self.daemon.admin("POST", "kms/start")
        self.assertEqual((code, answer["status"]), (200, "Running"), answer)
        status = self.status()
        self.assertEqual((status["status"], status["backend_type"], status["healthy"], status["health"]), ("Running", "pkcs11", True, "OK"))
        self.assertEqual((status["backend_status"], status["cache_enabled"], status["default_key_id"]), ("healthy", True, body["default_key_id"]))
        self.assertEqual(status["config_summary"]["default_key_id"], body["default_key_id"])
        for name in ("timeout_seconds", "retry_attempts", "enable_cache", "cache_summary", "backend_summary"):
            self.assertIn(name, status["config_summary"])
        self.assertNotIn("pin", json.dumps(status).lower().replace("pinned", ""))
        code, answer, _ = self.daemon.admin("GET", "kms/config")
        self.assertEqual(set(answer) >= {"backend", "cache_enabled", "cache_max_keys", "cache_ttl_seconds", "default_key_id"}, True)
        code, answer, headers = self.daemon.admin("POST", "kms/clear-cache")
        self.assertEqual((code, answer), (204, None))
        code, answer, _ = self.daemon.admin("POST", "kms/stop")
        self.assertEqual((code, answer["status"]), (200, "Configured"))
        self.assertEqual(self.daemon.admin("POST", "kms/generate-data-key", {"key_id": "x", "key_spec": "AES_256"})[0], 503)
        self.assertEqual(self.daemon.admin("POST", "kms/start")[1]["status"], "Running")
        made = self.daemon.admin("POST", "kms/generate-data-key", {})[1]
        for body, word in (({}, "already"), ({"force": False}, "already"), ({"force": True}, "restarted")):
            code, answer, _ = self.daemon.admin("POST", "kms/start", body)
            self.assertEqual((code, answer["status"]), (200, "Running"))
            self.assertIn(word, answer["message"])
        self.assertEqual(self.daemon.admin("POST", "kms/decrypt", {"ciphertext_blob": made["ciphertext_blob"]})[1]["plaintext_key"], made["plaintext_key"])
        self.assertEqual([entry["state"] for entry in self.daemon.admin("GET", "kms/backends")[1]["backends"]], ["active"])
        self.assertIn("force", self.daemon.admin("POST", "kms/start", {"force": "yes"})[1]["message"])

    def test_4_it_runs_again_after_a_restart(self):
        self.daemon.restart()
        self.assertEqual(self.status()["status"], "Running")

    def test_5_reconfigure_switches_live_and_old_data_keys_open(self):
        code, made, _ = self.daemon.admin("POST", "kms/generate-data-key", {"key_spec": "AES_256", "encryption_context": {"a": "b"}})
        self.assertEqual(code, 200, made)
        code, answer, _ = self.daemon.admin("POST", "kms/reconfigure", {"backend_type": "local", "default_key_id": "local-default"})
        self.assertEqual(code, 200, answer)
        self.assertEqual(self.status()["backend_type"], "local")
        code, opened, _ = self.daemon.admin("POST", "kms/decrypt", {"ciphertext_blob": made["ciphertext_blob"], "encryption_context": {"a": "b"}})
        self.assertEqual((code, opened.get("plaintext_key")), (200, made["plaintext_key"]), opened)
        code, second, _ = self.daemon.admin("POST", "kms/generate-data-key", {})
        self.assertEqual((code, second.get("key_id")), (200, "local-default"))
        code, answer, _ = self.daemon.admin("POST", "kms/reconfigure", {"cache_ttl_seconds": "x"})
        self.assertEqual(code, 400)
        self.assertEqual(self.daemon.admin("POST", "kms/reconfigure", {"cache_ttl_seconds": 60})[0], 200)
        self.assertEqual(self.daemon.admin("GET", "kms/config")[1]["cache_ttl_seconds"], 60)


class Keys(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    def ok(self, method, path, body=None):
        code, answer, _ = self.daemon.admin(method, path, body)
        self.assertEqual(code, 200, answer)
        return answer

    def test_a_key_lives_from_creation_to_pending_deletion_and_back(self):
        made = self.ok("POST", "kms/keys", {"KeyUsage": "ENCRYPT_DECRYPT", "Description": "project-alpha", "Tags": {"owner": "security"}})
        key_id, metadata = made["key_id"], made["key_metadata"]
        self.assertRegex(key_id, r"^[0-9a-f]{8}-[0-9a-f]{4}-4")
        self.assertEqual((metadata["key_id"], metadata["description"], metadata["enabled"], metadata["key_usage"]),
                         (key_id, "project-alpha", True, "ENCRYPT_DECRYPT"))
        self.assertRegex(metadata["creation_date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
        self.assertEqual(self.ok("GET", "kms/keys/" + key_id)["key_metadata"]["key_id"], key_id)
        listed = self.ok("GET", "kms/keys?limit=1000")
        self.assertIn(key_id, [row["key_id"] for row in listed["keys"]])
        self.assertIs(listed["truncated"], False)
        data_key = self.ok("POST", "kms/generate-data-key", {"key_id": key_id, "key_spec": "AES_256"})
        for days in (6, 31, 0, -1, "7", 7.5):
            self.assertEqual(self.daemon.admin("DELETE", "kms/keys/delete", {"key_id": key_id, "pending_window_in_days": days})[0], 400, days)
        gone = self.ok("DELETE", "kms/keys/delete", {"key_id": key_id, "pending_window_in_days": 7})["key_metadata"]
        self.assertTrue(gone["deletion_date"])
        for body in ({"key_id": key_id, "key_spec": "AES_256"},):
            self.assertEqual(self.daemon.admin("POST", "kms/generate-data-key", body)[0], 409)
        self.assertEqual(self.daemon.admin("POST", "kms/decrypt", {"ciphertext_blob": data_key["ciphertext_blob"]})[0], 409)
        self.ok("POST", "kms/keys/cancel-deletion", {"key_id": key_id})
        self.assertEqual(self.ok("POST", "kms/decrypt", {"ciphertext_blob": data_key["ciphertext_blob"]})["plaintext_key"], data_key["plaintext_key"])
        self.assertEqual(self.daemon.admin("POST", "kms/keys/cancel-deletion", {"key_id": key_id})[0], 409)

    def test_paging_gives_every_key_once(self):
        names = sorted(f"page-{i:02}" for i in range(12))
        for name in names:
            self.ok("POST", "kms/keys", {"tags": {"name": name}})
        seen, marker = [], None
        while True:
            page = self.ok("GET", "kms/keys?limit=5" + (f"&marker={quote(marker, safe='')}" if marker else ""))
            self.assertLessEqual(len(page["keys"]), 5)
            seen += [row["key_id"] for row in page["keys"]]
            marker = page["next_marker"]
            if not page["truncated"]:
                break
        self.assertEqual([name for name in seen if name.startswith("page-")], names)
        self.assertEqual(len(seen), len(set(seen)))

    def test_what_is_not_there_is_404_and_what_is_there_twice_409(self):
        for method, path, body in (("GET", "kms/keys/nobody", None), ("DELETE", "kms/keys/delete", {"key_id": "nobody"}),
                                   ("POST", "kms/keys/cancel-deletion", {"key_id": "nobody"}), ("GET", "kms/nowhere", None),
                                   ("POST", "kms/generate-data-key", {"key_id": "nobody", "key_spec": "AES_256"})):
            code, answer, _ = self.daemon.admin(method, path, body)
            self.assertEqual((code, answer["code"]), (404, "NotFound"), path)
        self.ok("POST", "kms/keys", {"tags": {"name": "twice"}})
        self.assertEqual(self.daemon.admin("POST", "kms/keys", {"tags": {"name": "twice"}})[0], 409)
        self.assertEqual(self.daemon.admin("POST", "kms/keys", {"KeyUsage": "SIGN_VERIFY"})[0], 400)
        for name in ("", "a\u0000b", "x" * 256, "\n"):
            self.assertEqual(self.daemon.admin("POST", "kms/keys", {"tags": {"name": name}})[0], 400, repr(name))

    def test_odd_names_are_names_and_never_paths(self):
        for name in ("../../etc/passwd", "a b", "ключ", "100%", "a/b"):
            code, answer, _ = self.daemon.admin("POST", "kms/keys", {"tags": {"name": name}})
            self.assertIn(code, (200, 400), name)
            if code == 200 and "/" not in name:
                self.assertEqual(self.ok("GET", "kms/keys/" + quote(name, safe=""))["key_metadata"]["key_id"], name)

    def test_data_keys_are_bound_to_their_context(self):
        context = {"bucket": "analytics-data", "object": "2024/09/18/report.parquet"}
        made = self.ok("POST", "kms/generate-data-key", {"key_spec": "AES_256", "encryption_context": context})
        self.assertEqual(len(base64.b64decode(made["plaintext_key"])), 32)
        blob = made["ciphertext_blob"]
        opened = self.ok("POST", "kms/decrypt", {"ciphertext_blob": blob, "encryption_context": dict(reversed(context.items()))})
        self.assertEqual(opened, {"key_id": made["key_id"], "plaintext_key": made["plaintext_key"]})
        raw = bytearray(base64.b64decode(blob))
        answers = set()
        for body in ([{"ciphertext_blob": blob}, {"ciphertext_blob": blob, "encryption_context": {**context, "x": "y"}},
                      {"ciphertext_blob": blob, "encryption_context": {**context, "bucket": "other"}}] +
                     [{"ciphertext_blob": base64.b64encode(bytes(raw[:i]) + bytes([raw[i] ^ 1]) + bytes(raw[i + 1:])).decode(),
                       "encryption_context": context} for i in range(len(raw))] +
                     [{"ciphertext_blob": base64.b64encode(bytes(raw[:i])).decode(), "encryption_context": context} for i in range(0, len(raw), 7)]):
            code, answer, _ = self.daemon.admin("POST", "kms/decrypt", body)
            self.assertIn(code, (400, 404), answer)
            answers.add((code, answer["code"], answer["message"]))
        self.assertLessEqual(len({a for a in answers if a[1] == "InvalidCiphertext"}), 1, "one text, no oracle")
        self.assertEqual(len(base64.b64decode(self.ok("POST", "kms/generate-data-key", {"key_spec": "AES_128"})["plaintext_key"])), 16)
        self.assertEqual(self.daemon.admin("POST", "kms/generate-data-key", {"key_spec": "DES"})[0], 400)
        self.assertEqual(self.daemon.admin("POST", "kms/generate-data-key", {"encryption_context": {"a": 1}})[0], 400)

    def test_many_data_keys_come_at_once(self):
        many = self.ok("POST", "kms/generate-data-keys", {"key_spec": "AES_256", "count": 64, "encryption_context": {"a": "b"}})
        self.assertEqual(len({key["plaintext_key"] for key in many["data_keys"]}), 64)
        last = many["data_keys"][63]
        self.assertEqual(self.ok("POST", "kms/decrypt", {"ciphertext_blob": last["ciphertext_blob"], "encryption_context": {"a": "b"}})["plaintext_key"],
                         last["plaintext_key"])
        for count in (0, 65, -1, "3", None):
            self.assertEqual(self.daemon.admin("POST", "kms/generate-data-keys", {"count": count})[0], 400, count)

    def test_an_api_data_key_never_stands_in_for_an_objects(self):
        s3 = self.daemon.s3()
        s3.create_bucket(Bucket="purpose")
        s3.put_object(Bucket="purpose", Key="o", Body=b"x", ServerSideEncryption="aws:kms")
        # An object's envelope never leaves the store, so the other direction is asked in the unit tests.
        self.assertEqual(s3.get_object(Bucket="purpose", Key="o")["Body"].read(), b"x")

    def test_who_may(self):
        daemon = self.daemon
        code, answer, _ = daemon.admin("GET", "kms/status", sign=False)
        self.assertEqual((code, answer["code"]), (401, "AccessDenied"))
        code, answer, _ = daemon.admin("GET", "kms/status", secret_key="x" * 40)
        self.assertEqual((code, answer["code"]), (401, "AccessDenied"))
        code, answer, _ = daemon.admin("GET", "kms/status", access_key="AKIANOBODY")
        self.assertEqual((code, answer["code"]), (401, "AccessDenied"))
        for method, path in (("GET", "kms/status"), ("POST", "kms/stop"), ("GET", "kms/keys"), ("POST", "kms/generate-data-key"), ("GET", "kms/nowhere")):
            code, answer, _ = daemon.admin(method, path, access_key=daemon.env["HARDPLATE_USER_ACCESS_KEY"], secret_key=daemon.env["HARDPLATE_USER_SECRET_KEY"])
            self.assertEqual((code, answer["code"]), (403, "AccessDenied"), path)
        self.assertEqual(daemon.admin("PUT", "kms/status")[0], 405)

    def test_a_member_is_taken_in_every_spelling_or_refused_but_never_passed_over(self):
        self.ok("POST", "kms/keys", {"tags": {"name": "spelled"}})
        context = {"tenant": "a"}
        made = self.ok("POST", "kms/generate-data-key", {"KeyId": "spelled", "KeySpec": "AES_128", "EncryptionContext": context})
        self.assertEqual((made["key_id"], len(base64.b64decode(made["plaintext_key"]))), ("spelled", 16))
        for body in ({"ciphertext_blob": made["ciphertext_blob"], "encryption_context": context}, {"ciphertext_b64": made["ciphertext_blob"], "context": context},
                     {"CiphertextBlob": made["ciphertext_blob"], "EncryptionContext": context}):
            self.assertEqual(self.ok("POST", "kms/decrypt", body)["plaintext_key"], made["plaintext_key"])
        for method, path, body in (("POST", "kms/generate-data-key", {"key_id": ""}), ("POST", "kms/generate-data-key", {"key_id": "spelled", "KeyId": "other"}),
                                   ("POST", "kms/generate-data-keys", {"KeyId": "x" * 256, "count": 1}), ("POST", "kms/generate-data-key", {"context": []}),
                                   ("POST", "kms/generate-data-key", {"context": {"a": "b"}, "encryption_context": {"a": "c"}}),
                                   ("POST", "kms/keys", {"KeyUsage": "ENCRYPT_DECRYPT", "key_usage": "SignVerify"}), ("POST", "kms/keys", {"Tags": {"a": "b"}, "tags": 5}),
                                   ("DELETE", "kms/keys/delete", {"KeyId": "spelled", "PendingWindowInDays": 3})):
            code, answer, _ = self.daemon.admin(method, path, body)
            self.assertEqual((code, answer["code"]), (400, "InvalidRequest"), body)
        scheduled = self.ok("DELETE", "kms/keys/delete", {"KeyId": "spelled", "PendingWindowInDays": 7})
        self.assertLess(datetime.datetime.fromisoformat(scheduled["deletion_date"].replace("Z", "+00:00")),
                        datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=8))

    def test_a_list_has_the_words_of_the_clients(self):
        self.ok("POST", "kms/keys", {"tags": {"name": "listed"}})
        row = next(row for row in self.ok("GET", "kms/keys?limit=1000&status=Active")["keys"] if row["key_id"] == "listed")
        self.assertEqual((row["status"], row["key_state"]), ("Active", "Enabled"))
        self.assertEqual(self.ok("GET", "kms/key/status?keyName=listed")["status"], "Active")
        self.assertEqual(self.ok("GET", "kms/keys?status=Deleted")["keys"], [])

    def test_answers_with_keys_are_not_stored(self):
        _, _, headers = self.daemon.admin("POST", "kms/generate-data-key", {})
        self.assertEqual(headers["Cache-Control"], "no-store")
        log = self.daemon.log_text()
        self.assertNotIn(self.daemon.env["HARDPLATE_SECRET_KEY"], log)


if __name__ == "__main__":
    unittest.main(verbosity=2)
