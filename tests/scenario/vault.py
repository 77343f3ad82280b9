#!/usr/bin/env python3
"""The vault backend against a real OpenBao: every spelling, the documents' policies and nothing more, and what happens when the server, the token or the
network fails."""
import base64
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from hardplate import Daemon, FileDaemon, wait_until
from openbao import Bao, Proxy

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs/vault.md"
FULL, ONE_KEY = re.findall(r"```hcl\n(.*?)```", DOCS.read_text(), re.S)
BAO = None


def setUpModule():
    global BAO
    BAO = Bao()
    BAO.mount()
    BAO.policy("full", FULL)
    BAO.policy("one-key", ONE_KEY)


def tearDownModule():
    BAO.remove()


def body_for(auth=None, **more):
    return {"backend_type": "vault", "address": BAO.address, "auth_method": auth or {"token": BAO.token(["full"])}, "key_path_prefix": "rustfs/kms/keys/" + secrets.token_hex(6), **more}


class Case(unittest.TestCase):
    def daemon_with(self, body, code=200):
        daemon = Daemon(backend="none")
        self.addCleanup(daemon.remove)
        self.ask(daemon, "kms/configure", body)
        status, answer, _ = daemon.admin("POST", "kms/start")
        self.assertEqual(status, code, answer)
        return daemon

    def ask(self, daemon, path, body=None, code=200, method="POST"):
        status, answer, _ = daemon.admin(method, path, body)
        self.assertEqual(status, code, answer)
        return answer

    def data_key(self, daemon, code=200, **body):
        return self.ask(daemon, "kms/generate-data-key", {"key_spec": "AES_256", "encryption_context": {"a": "b"}, **body}, code)

    def opens(self, daemon, made, code=200):
        answer = self.ask(daemon, "kms/decrypt", {"ciphertext_blob": made["ciphertext_blob"], "encryption_context": {"a": "b"}}, code)
        if code == 200:
            self.assertEqual(answer["plaintext_key"], made["plaintext_key"])
        return answer

    def round_trip(self, daemon, **body):
        made = self.data_key(daemon, **body)
        self.opens(daemon, made)
        return made

    def details(self, daemon):
        return self.ask(daemon, "kms/status", method="GET")["details"]

    def until(self, condition):
        self.assertTrue(wait_until(condition), "it did not come to it")


class Spellings(Case):
    def test_every_spelling_configures_and_works(self):
        token, (role, secret) = BAO.token(["full"]), BAO.approle(["full"])
        where = {"address": BAO.address, "key_path_prefix": "rustfs/kms/keys/spellings"}
        old = {"vault_address": BAO.address, "key_path_prefix": "rustfs/kms/keys/spellings"}
        spellings = [
            ("token", {"backend_type": "vault", "auth_method": {"token": token}, **where}),
            ("token", {"backend_type": "VaultKV2", "auth_method": {"Token": {"token": token}}, "mount_path": None, **where}),
            ("approle", {"backend_type": "vault-transit", "auth_method": {"AppRole": {"role_id": role, "secret_id": secret}}, "mount_path": "transit/", **where}),
            ("approle", {"backend_type": "Vault", "auth_method": {"approle": {"role_id": role, "secret_id": secret}}, "kv_mount": "secret", **where}),
            ("token", {"kms_type": "vault", "vault_token": token, "vault_mount_path": "transit", "vault_timeout_seconds": 20, **old}),
            ("approle", {"kms_type": "vault", "vault_app_role_id": role, "vault_app_role_secret_id": secret, **old}),
        ]
        daemon = self.daemon_with(spellings[0][1])
        made = self.round_trip(daemon)
        for method, body in spellings[1:]:
            self.ask(daemon, "kms/reconfigure", body)
            self.opens(daemon, made)
            summary = self.ask(daemon, "kms/status", method="GET")["config_summary"]["backend_summary"]
            self.assertEqual((summary["backend_type"], summary["mount_path"], summary["kv_mount"], summary["namespace"]), ("vault", "transit", "secret", None))
            self.assertEqual(summary["auth_method_type"], method)
            for secret_text in (token, secret):
                self.assertNotIn(secret_text, json.dumps(self.ask(daemon, "kms/status", method="GET")))
                self.assertNotIn(secret_text, daemon.log_text())
        code, answer, _ = daemon.admin("POST", "kms/reconfigure", {"address": "http://127.0.0.1:1"})
        self.assertEqual(code, 400)
        self.assertIn("auth_method", answer["message"])
        self.opens(daemon, made)
        daemon.restart()
        self.opens(daemon, made)

    def test_the_status_has_the_documents_fields(self):
        daemon = self.daemon_with(body_for(default_key_id="doc-fields"))
        status = self.ask(daemon, "kms/status", method="GET")
        self.assertEqual((status["status"], status["backend"], status["health"]), ("Running", "vault", "OK"))
        self.assertEqual((status["details"]["engine_type"], status["details"]["mount_path"], status["details"]["namespace"]), ("transit", "transit", None))
        self.assertEqual(status["details"]["node"], "active")

    def test_a_server_that_never_answers_costs_the_time_that_was_given(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(64)
            daemon = Daemon(backend="local")
            self.addCleanup(daemon.remove)
            started = time.time()
            answer = self.ask(daemon, "kms/reconfigure", {"backend_type": "vault", "address": f"http://127.0.0.1:{silent.getsockname()[1]}", "timeout_seconds": 1,
                                                          "auth_method": {"token": "t"}}, 500)
            self.assertLess(time.time() - started, 40)
            self.assertIn("did not answer in time", answer["message"])
            self.data_key(daemon)

    def test_a_namespace(self):
        BAO.api("POST", "sys/namespaces/team", {})
        BAO.mount(namespace="team", transit="keys", kv="kv")
        daemon = self.daemon_with({**body_for({"token": BAO.root}), "namespace": "team/", "mount_path": "keys", "kv_mount": "kv", "default_key_id": "in-team"})
        self.round_trip(daemon)
        self.assertEqual(BAO.api("GET", "keys/keys/in-team", namespace="team")["data"]["type"], "aes256-gcm96")
        with self.assertRaises(RuntimeError):
            BAO.api("GET", "transit/keys/in-team")


class Playbook(Case):
    def test_local_first_then_vault_then_back(self):
        daemon = Daemon(backend="none")
        self.addCleanup(daemon.remove)
        self.ask(daemon, "kms/configure", {"backend_type": "local", "default_key_id": "rustfs-master", "enable_cache": True, "cache_ttl_seconds": 900})
        self.ask(daemon, "kms/start")
        s3, bodies = daemon.s3(), {}
        s3.create_bucket(Bucket="playbook")

        def put(name, key_id=None):
            bodies[name] = secrets.token_bytes(100_000)
            answer = s3.put_object(Bucket="playbook", Key=name, Body=bodies[name], ServerSideEncryption="aws:kms", **({"SSEKMSKeyId": key_id} if key_id else {}))
            for key, body in bodies.items():
                self.assertEqual(s3.get_object(Bucket="playbook", Key=key)["Body"].read(), body, key)
            return answer

        put("under-local")
        BAO.api("POST", "transit/keys/rustfs-master", {"type": "aes256-gcm96"})
        BAO.api("POST", "transit/keys/rustfs-master/rotate", {})
        role, secret = BAO.approle(["full"])
        self.ask(daemon, "kms/reconfigure", {
            "backend_type": "vault", "address": BAO.address, "auth_method": {"approle": {"role_id": role, "secret_id": secret}}, "mount_path": "transit",
            "kv_mount": "secret", "key_path_prefix": "rustfs/kms/keys", "default_key_id": "rustfs-master", "retry_attempts": 5, "timeout_seconds": 60})
        self.assertEqual(self.ask(daemon, "kms/status", method="GET")["backend_type"], "vault")
        put("under-vault")
        self.assertEqual(BAO.api("GET", "transit/keys/rustfs-master")["data"]["latest_version"], 2, "the administrator's key, as it is")
        made = self.ask(daemon, "kms/keys", {"KeyUsage": "ENCRYPT_DECRYPT", "Description": "rotation-2024-09", "Tags": {"name": "rotation-2024-09"}})
        self.ask(daemon, "kms/reconfigure", {"backend_type": "vault", "default_key_id": made["key_id"]})
        self.assertEqual(put("under-the-new-default")["SSEKMSKeyId"], "rotation-2024-09")
        self.ask(daemon, "kms/reconfigure", {"enable_cache": True, "max_cached_keys": 2048, "cache_ttl_seconds": 600, "timeout_seconds": 20})
        self.ask(daemon, "kms/stop")
        with self.assertRaises(Exception):
            s3.get_object(Bucket="playbook", Key="under-vault")
        self.ask(daemon, "kms/start")
        put("after-the-pause")
        self.ask(daemon, "kms/reconfigure", {"backend_type": "local", "default_key_id": "rustfs-master"})
        put("after-rolling-back")


class Switching(Case):
    def test_switching_to_and_fro_under_load_fails_no_request_and_strands_nothing(self):
        daemon = Daemon(backend="none")
        self.addCleanup(daemon.remove)
        self.ask(daemon, "kms/configure", {"backend_type": "local", "default_key_id": "switching"})
        self.ask(daemon, "kms/start")
        made, failures, stop = [], [], threading.Event()

        def load():
            while not stop.is_set():
                code, key, _ = daemon.admin("POST", "kms/generate-data-key", {"key_spec": "AES_256", "encryption_context": {"a": "b"}})
                if code == 200:
                    made.append(key)
                    key = made[len(made) // 2]
                    code, opened, _ = daemon.admin("POST", "kms/decrypt", {"ciphertext_blob": key["ciphertext_blob"], "encryption_context": {"a": "b"}})
                    code = code if opened.get("plaintext_key") == key["plaintext_key"] else (code, opened)
                if code != 200:
                    failures.append((code, key))
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        over_vault = body_for(default_key_id="switching")
        for body in (over_vault, {"backend_type": "local", "default_key_id": "switching"}) * 3:
            self.ask(daemon, "kms/reconfigure", body)
            before = len(made)
            self.until(lambda: len(made) >= before + 20 or failures)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertGreater(len({base64.b64decode(key["ciphertext_blob"])[6:14] for key in made}), 1, "both keystores were used")
        for key in made[::25]:
            self.opens(daemon, key)


class Policies(Case):
    def test_the_full_policy_is_enough_for_everything(self):
        daemon = self.daemon_with(body_for(default_key_id="pol-default"))
        old = self.round_trip(daemon)
        self.ask(daemon, "kms/key/create?keyName=pol-key")
        self.ask(daemon, "kms/key/rotate?keyName=pol-default")
        self.ask(daemon, "kms/keys", {"Tags": {"name": "pol/odd name ü"}})
        self.round_trip(daemon, key_id="pol/odd name ü")
        self.opens(daemon, old)
        self.round_trip(daemon)
        self.assertEqual(BAO.api("GET", "transit/keys/pol-default")["data"]["latest_version"], 2)
        self.assertTrue(BAO.api("GET", "transit/keys/pol-default")["data"]["derived"], "a key for each wrap")
        keys = [key["key_id"] for key in self.ask(daemon, "kms/key/list", method="GET")["keys"]]
        self.assertEqual(keys, ["pol-default", "pol-key", "pol/odd name ü"])
        self.ask(daemon, "kms/keys/delete", {"key_id": "pol-key", "pending_window_in_days": 7}, method="DELETE")
        self.data_key(daemon, key_id="pol-key", code=409)
        self.ask(daemon, "kms/keys/cancel-deletion", {"key_id": "pol-key"})
        self.round_trip(daemon, key_id="pol-key")
        daemon.restart()
        self.opens(daemon, old)

    def test_one_key_of_an_administrator_s_is_enough_to_work(self):
        BAO.api("POST", "transit/keys/app-default", {"type": "aes256-gcm96"})
        daemon = self.daemon_with(body_for({"token": BAO.token(["one-key"])}, default_key_id="app-default", retry_attempts=0))
        self.round_trip(daemon)
        self.assertEqual(self.ask(daemon, "kms/status", method="GET")["health"], "OK")
        answer = self.ask(daemon, "kms/keys", {"Tags": {"name": "another"}}, 503)
        self.assertIn("policy", answer["message"])
        answer = self.ask(daemon, "kms/key/rotate?keyName=app-default", code=503)
        self.assertIn("policy does not allow update on 'transit/keys/app-default/rotate'", answer["message"])
        self.round_trip(daemon)

    def test_disabling_is_501_and_enabling_makes_sure_of_the_key(self):
        daemon = self.daemon_with(body_for())
        self.ask(daemon, "kms/key/enable?keyName=made-by-enable", method="PUT")
        self.assertEqual(BAO.api("GET", "transit/keys/made-by-enable")["data"]["latest_version"], 1)
        answer = self.ask(daemon, "kms/key/disable?keyName=made-by-enable", code=501, method="PUT")
        self.assertEqual(answer["code"], "NotImplemented")
        self.ask(daemon, "kms/keys/disable", {"key_id": "made-by-enable"}, 501)
        self.round_trip(daemon, key_id="made-by-enable")

    def test_a_plain_key_is_counted_and_a_derived_one_needs_no_count(self):
        daemon = self.daemon_with(body_for())
        for name, derived, most in (("plain-key", False, 1 << 31), ("derived-key", True, None)):
            BAO.api("POST", f"transit/keys/{name}", {"type": "aes256-gcm96", "derived": derived})
            self.round_trip(daemon, key_id=name)
            metadata = self.ask(daemon, f"kms/keys/{name}", method="GET")["key_metadata"]
            self.assertEqual((metadata["rotation_enabled"], metadata.get("rotation_max_wraps")), (most is not None, most))
            self.assertEqual(BAO.api("GET", f"transit/keys/{name}")["data"]["derived"], derived)
        BAO.api("POST", "transit/keys/plain-made", {"type": "aes256-gcm96"})
        self.ask(daemon, "kms/key/create?keyName=plain-made")
        self.assertEqual(self.ask(daemon, "kms/keys/plain-made", method="GET")["key_metadata"]["rotation_max_wraps"], 1 << 31)
        made = self.ask(daemon, "kms/generate-data-keys", {"key_id": "plain-made", "count": 5, "encryption_context": {"a": "b"}})["data_keys"]
        self.opens(daemon, made[4])

    def test_a_key_of_another_type_is_refused_by_name(self):
        BAO.api("POST", "transit/keys/rsa-key", {"type": "rsa-2048"})
        daemon = self.daemon_with(body_for())
        answer = self.data_key(daemon, key_id="rsa-key", code=400)
        self.assertIn("rsa-2048", answer["message"])
        self.data_key(daemon, key_id="no-such-key", code=404)

    def test_what_an_administrator_does_to_a_key_is_told(self):
        daemon = self.daemon_with(body_for(retry_attempts=0, enable_cache=False))
        BAO.api("POST", "transit/keys/outside", {"type": "aes256-gcm96"})
        self.ask(daemon, "kms/key/status?keyName=outside", method="GET", code=404)
        old = self.round_trip(daemon, key_id="outside")
        self.assertEqual(self.ask(daemon, "kms/key/status?keyName=outside", method="GET")["key_id"], "outside")
        BAO.api("POST", "transit/keys/outside/rotate", {})
        self.round_trip(daemon, key_id="outside")
        self.ask(daemon, "kms/key/rotate?keyName=outside")
        self.assertEqual(BAO.api("GET", "transit/keys/outside")["data"]["latest_version"], 2, "the version made outside is the one used")
        new = self.round_trip(daemon, key_id="outside")
        BAO.api("POST", "transit/keys/outside/config", {"min_decryption_version": 2})
        self.assertIn("min_decryption_version", self.opens(daemon, old, 503)["message"])
        self.opens(daemon, new)
        BAO.api("POST", "transit/keys/outside/config", {"deletion_allowed": True})
        BAO.api("DELETE", "transit/keys/outside")
        self.opens(daemon, new, 503)
        self.data_key(daemon, key_id="outside", code=503)
        with self.assertRaises(RuntimeError):
            BAO.api("GET", "transit/keys/outside")


class Records(Case):
    def test_a_changed_or_deleted_record_harms_only_its_key(self):
        body = body_for(retry_attempts=0, enable_cache=False)
        daemon = self.daemon_with(body)
        for name in ("rec-good", "rec-changed", "rec-deleted", "rec-rolled"):
            self.ask(daemon, f"kms/key/create?keyName={name}")
        path = f"secret/data/{body['key_path_prefix']}/record/"
        found = BAO.api("GET", path + "rec-changed")["data"]["data"]
        BAO.api("POST", path + "rec-changed", {"data": {**found, "content": found["content"].replace("enabled", "pending")}})
        BAO.api("DELETE", path + "rec-deleted")
        self.ask(daemon, "kms/keys/delete", {"key_id": "rec-rolled"}, method="DELETE")
        old = BAO.api("GET", path + "rec-rolled?version=2")["data"]["data"]
        BAO.api("POST", path + "rec-rolled", {"data": old})
        self.round_trip(daemon, key_id="rec-good")
        self.assertEqual(self.data_key(daemon, key_id="rec-changed", code=500)["code"], "IntegrityError")
        self.assertEqual(self.data_key(daemon, key_id="rec-rolled", code=500)["code"], "IntegrityError")
        self.assertIn("undelete", self.data_key(daemon, key_id="rec-deleted", code=503)["message"])
        listed = {key["key_id"]: key["status"] for key in self.ask(daemon, "kms/keys", method="GET")["keys"]}
        self.assertEqual((listed["rec-good"], listed["rec-changed"]), ("Active", "Damaged"))
        BAO.api("POST", f"secret/undelete/{body['key_path_prefix']}/record/rec-deleted", {"versions": [2]})
        self.round_trip(daemon, key_id="rec-deleted")

    def test_another_root_secret_is_refused(self):
        body = body_for()
        self.round_trip(self.daemon_with(body))
        other = Daemon(backend="none")
        self.addCleanup(other.remove)
        self.ask(other, "kms/configure", body)
        code, answer, _ = other.admin("POST", "kms/start")
        self.assertEqual(code, 500)
        self.assertIn("root secret", answer["message"])


class Tokens(Case):
    def test_a_short_token_is_renewed(self):
        token = BAO.token(["full"], ttl="9s", period="9s")
        daemon = self.daemon_with(body_for({"token": token}))
        made, ends = self.round_trip(daemon), time.monotonic() + 9
        self.until(lambda: self.opens(daemon, made) and self.details(daemon)["renewals"] >= 2 and time.monotonic() > ends)
        self.assertNotIn(token, daemon.log_text())

    def test_a_short_approle_token_is_renewed_and_then_replaced(self):
        role, secret = BAO.approle(["full"], token_ttl="2s", token_max_ttl="4s")
        daemon = self.daemon_with(body_for({"approle": {"role_id": role, "secret_id": secret}}))
        made, ends = self.round_trip(daemon), time.monotonic() + 4
        self.until(lambda: self.opens(daemon, made) and self.details(daemon)["logins"] >= 2 and time.monotonic() > ends)

    def test_a_revoked_approle_token_is_replaced_by_one_login(self):
        role, secret = BAO.approle(["full"], token_ttl="1h", token_max_ttl="2h")
        daemon = self.daemon_with(body_for({"approle": {"role_id": role, "secret_id": secret}}))
        made = self.round_trip(daemon)
        before = self.details(daemon)["logins"]
        BAO.api("POST", "sys/leases/revoke-prefix/auth/approle/login", {})
        self.opens(daemon, made)
        self.round_trip(daemon)
        self.assertEqual(self.details(daemon)["logins"], before + 1)

    def test_a_revoked_approle_is_told_and_a_new_one_mends_it(self):
        role, secret = BAO.approle(["full"], token_ttl="1h", token_max_ttl="2h")
        body = body_for({"approle": {"role_id": role, "secret_id": secret}}, retry_attempts=0)
        daemon = self.daemon_with(body)
        made = self.round_trip(daemon)
        BAO.api("DELETE", "auth/approle/role/hardplate")
        BAO.api("POST", "sys/leases/revoke-prefix/auth/approle/login", {})
        answer = self.opens(daemon, made, 503)
        self.assertIn("refused the approle login", answer["message"])
        self.assertNotIn(secret, json.dumps(answer) + daemon.log_text())
        self.assertEqual(self.ask(daemon, "kms/status", method="GET")["healthy"], False)
        role, secret = BAO.approle(["full"], token_ttl="1h", token_max_ttl="2h")
        self.ask(daemon, "kms/reconfigure", {"auth_method": {"approle": {"role_id": role, "secret_id": secret}}})
        self.opens(daemon, made)

    def test_a_revoked_token_is_told(self):
        token = BAO.token(["full"])
        daemon = self.daemon_with(body_for({"token": token}, retry_attempts=0))
        made = self.round_trip(daemon)
        BAO.api("POST", "auth/token/revoke", {"token": token})
        self.assertIn("does not accept our token", self.opens(daemon, made, 503)["message"])
        self.ask(daemon, "kms/reconfigure", {"auth_method": {"Token": {"token": BAO.token(["full"])}}})
        self.opens(daemon, made)


class Failures(Case):
    """A server of its own: it is sealed, killed and slowed."""

    @classmethod
    def setUpClass(cls):
        cls.bao = Bao()
        cls.bao.mount()
        cls.bao.policy("full", FULL)
        cls.proxy = Proxy(cls.bao.port)
        cls.addClassCleanup(cls.bao.remove)
        cls.addClassCleanup(cls.proxy.close)

    def setUp(self):
        self.proxy.mode, self.proxy.faults = "pass", []
        self.daemon = self.daemon_with({"backend_type": "vault", "address": self.proxy.address, "auth_method": {"token": self.bao.token(["full"])},
                                        "key_path_prefix": "rustfs/kms/keys/" + secrets.token_hex(6), "timeout_seconds": 3, "retry_attempts": 2})
        self.made = self.round_trip(self.daemon)

    def healthy(self):
        return self.ask(self.daemon, "kms/status", method="GET")["healthy"]

    def test_sealed_and_unsealed(self):
        self.bao.seal()
        answer = self.opens(self.daemon, self.made, 503)
        self.assertIn("is sealed", answer["message"])
        status = self.ask(self.daemon, "kms/status", method="GET")
        self.assertEqual((status["healthy"], status["health"]), (False, "Failed"))
        self.assertIn("is sealed", status["details"]["error"])
        self.bao.unseal()
        self.until(self.healthy)
        self.opens(self.daemon, self.made)

    def test_killed_and_started_again(self):
        self.bao.kill()
        self.data_key(self.daemon, code=503)
        self.assertFalse(self.healthy())
        self.bao.start()
        self.assertIn("sealed", self.opens(self.daemon, self.made, 503)["message"])
        self.bao.unseal()
        self.until(self.healthy)
        self.opens(self.daemon, self.made)

    def test_one_failure_is_tried_again(self):
        for fault in (lambda h: h.answer(500, b'{"errors":["internal error"]}'), lambda h: h.answer(502, b"<html>bad gateway</html>"),
                      lambda h: h.connection.shutdown(socket.SHUT_RDWR), lambda h: h.answer(200, b"not json"), lambda h: h.answer(429, b'{"errors":["quota"]}')):
            self.proxy.faults = [fault]
            self.opens(self.daemon, self.made)
            self.proxy.faults = [fault]
            self.round_trip(self.daemon)

    def test_lasting_failures_end_in_one_sentence_within_the_deadline(self):
        cases = [
            (lambda h: h.answer(500, b'{"errors":["boom"]}'), 500, "boom"),
            (lambda h: h.answer(503, b'{"errors":["Vault is sealed"]}'), 503, "sealed"),
            (lambda h: h.answer(500, b'{"errors":["local node not active but active cluster node not found"]}'), 503, "standby"),
            (lambda h: time.sleep(20), 503, "in time"),
            (lambda h: h.connection.shutdown(socket.SHUT_RDWR), 503, "cannot be reached"),
            (lambda h: h.answer(200, b"[" * 100000), 500, ""),
            (lambda h: h.answer(200, b'{"data":{"plaintext":"AAAA"}}'), 500, ""),
            (lambda h: h.answer(200, b"x" * 60_000_000), 500, ""),
        ]
        for fault, code, words in cases:
            self.proxy.mode = fault
            started = time.time()
            answer = self.opens(self.daemon, self.made, code)
            self.assertLess(time.time() - started, 15)
            self.assertIn(words, answer["message"])
            self.proxy.mode = "pass"
            self.until(self.healthy)
            self.opens(self.daemon, self.made)

    def test_lists_wait_no_longer_than_other_calls_and_fail_at_once_while_the_breaker_is_open(self):
        for number in range(4):
            self.ask(self.daemon, "kms/keys", {"tags": {"name": f"listed-{number}"}})
        page = self.ask(self.daemon, "kms/keys?limit=2", method="GET")
        self.assertEqual((len(page["keys"]), page["truncated"], len(self.ask(self.daemon, "kms/key/list", method="GET")["keys"])), (2, True, 5))
        self.proxy.mode = lambda h: time.sleep(10)
        started, answers = time.time(), []
        threads = [threading.Thread(target=lambda: answers.append(self.daemon.admin("GET", "kms/keys"))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertLess(time.time() - started, 25)
        self.assertEqual([code for code, _, _ in answers], [503] * 6)
        self.assertIn("does not answer", self.ask(self.daemon, "kms/keys", code=503, method="GET")["message"])

    def test_a_redirect_is_not_followed_with_the_token(self):
        elsewhere = Proxy(self.bao.port)
        self.addCleanup(elsewhere.close)
        self.proxy.mode = lambda h: h.answer(307, b"", [("Location", elsewhere.address + h.path)])
        self.assertIn("standby", self.opens(self.daemon, self.made, 503)["message"])
        self.assertEqual(elsewhere.seen, [])

    def test_a_slow_server_only_costs_time(self):
        self.proxy.mode = lambda h: (time.sleep(0.4), h.forward())
        self.round_trip(self.daemon)

    def test_connections_are_kept(self):
        accepted, accept = [], self.proxy.server.get_request

        def counting():
            accepted.append(1)
            return accept()
        self.proxy.server.get_request = counting
        self.addCleanup(setattr, self.proxy.server, "get_request", accept)
        for _ in range(20):
            self.opens(self.daemon, self.made)
        self.assertLessEqual(len(accepted), 2)

    def test_many_data_keys_are_one_call(self):
        self.proxy.seen.clear()
        made = self.ask(self.daemon, "kms/generate-data-keys", {"count": 64, "encryption_context": {"a": "b"}})["data_keys"]
        self.assertEqual(sum("/encrypt/" in path for _, path in self.proxy.seen), 1)
        self.assertEqual(len({key["plaintext_key"] for key in made}), 64)
        for key in made[::9]:
            self.opens(self.daemon, key)
        self.proxy.mode = lambda h: h.answer(200, b'{"data":{"batch_results":[]}}') if "/encrypt/" in h.path else h.forward()
        self.ask(self.daemon, "kms/generate-data-keys", {"count": 3, "encryption_context": {"a": "b"}}, 500)

    def test_without_the_engines_it_says_which(self):
        for missing, words in (({"mount_path": "nowhere"}, "transit engine is mounted at 'nowhere'"), ({"kv_mount": "nowhere"}, "KV engine is mounted at 'nowhere'"),
                               ({"auth_method": {"approle": {"role_id": "r", "secret_id": "s", "mount": "nowhere"}}}, "have the method enabled there"),
                               ({"auth_method": {"token": "s.wrong"}}, "does not accept our token")):
            daemon = Daemon(backend="none")
            self.addCleanup(daemon.remove)
            self.ask(daemon, "kms/configure", {"backend_type": "vault", "address": self.bao.address, "auth_method": {"token": self.bao.root}, **missing})
            code, answer, _ = daemon.admin("POST", "kms/start")
            self.assertEqual(code, 500)
            self.assertIn(words, answer["message"])
        self.bao.api("POST", "sys/mounts/one", {"type": "kv", "options": {"version": "1"}})
        daemon = Daemon(backend="none")
        self.addCleanup(daemon.remove)
        self.ask(daemon, "kms/configure", {"backend_type": "vault", "address": self.bao.address, "auth_method": {"token": self.bao.root}, "kv_mount": "one"})
        code, answer, _ = daemon.admin("POST", "kms/start")
        self.assertEqual(code, 500)
        self.assertIn("KV engine of version 2", answer["message"])


def make_ca(folder, name):
    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=folder)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}-ca.key", "-out", f"{name}-ca.pem", "-days", "2",
            "-subj", f"/CN={name} CA", "-addext", "basicConstraints=critical,CA:TRUE")
    for leaf, extra in ((f"{name}-server", "subjectAltName=IP:127.0.0.1"), (f"{name}-client", "extendedKeyUsage=clientAuth")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{leaf}.key", "-out", f"{leaf}.csr", "-subj", f"/CN={leaf}")
        (folder / "ext").write_text(extra + "\n")
        openssl("x509", "-req", "-in", f"{leaf}.csr", "-CA", f"{name}-ca.pem", "-CAkey", f"{name}-ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext",
                "-out", f"{leaf}.pem")


class LocalFile(Case):
    """What only the local file may say: TLS files, token files."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="hpl-tls-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        make_ca(cls.folder, "good")
        make_ca(cls.folder, "other")
        cls.bao = Bao(tls=(cls.folder / "good-server.pem", cls.folder / "good-server.key", cls.folder / "good-ca.pem"))
        cls.addClassCleanup(cls.bao.remove)
        cls.bao.mount()
        cls.bao.policy("full", FULL)

    def file_daemon(self, lines):
        daemon = FileDaemon("allow_immediate_deletion: true\n" + lines)
        self.addCleanup(daemon.remove)
        return daemon

    def vault(self, name="main", ca="good", client="good", extra="", address=None):
        lines = f"vaults:\n  - name: {name}\n    address: {address or self.bao.tls_address}\n"
        lines += f"    ca_file: {self.folder}/{ca}-ca.pem\n" if ca else ""
        lines += f"    certificate: {self.folder}/{client}-client.pem\n    key: {self.folder}/{client}-client.key\n" if client else ""
        return lines + extra

    def body(self, **more):
        return {"backend_type": "vault", "address": self.bao.tls_address, "auth_method": {"token": self.bao.token(["full"])}, "key_path_prefix": "rustfs/kms/keys/" + secrets.token_hex(6), **more}

    def start_fails(self, daemon, body, words):
        self.ask(daemon, "kms/configure", body)
        code, answer, _ = daemon.admin("POST", "kms/start")
        self.assertEqual(code, 500, answer)
        self.assertIn(words, answer["message"])

    def test_own_ca_and_client_certificate_work(self):
        daemon = self.file_daemon(self.vault())
        self.ask(daemon, "kms/configure", self.body())
        self.ask(daemon, "kms/start")
        self.round_trip(daemon)
        self.assertTrue(self.details(daemon)["tls_verified"])

    def test_another_ca_is_refused(self):
        self.start_fails(self.file_daemon(self.vault(ca="other")), self.body(), "not trusted")

    def test_the_system_s_authorities_do_not_know_this_one(self):
        self.start_fails(self.file_daemon(self.vault(ca=None)), self.body(), "not trusted")

    def test_without_a_client_certificate_there_is_no_tls(self):
        daemon = self.file_daemon(self.vault(client=None))
        self.ask(daemon, "kms/configure", self.body())
        code, answer, _ = daemon.admin("POST", "kms/start")
        self.assertEqual(code, 500, answer)

    def test_skipping_the_verification_is_loud(self):
        daemon = self.file_daemon(self.vault(ca="other"))
        self.ask(daemon, "kms/configure", self.body(skip_tls_verify=True))
        self.ask(daemon, "kms/start")
        self.round_trip(daemon)
        self.assertFalse(self.details(daemon)["tls_verified"])
        self.assertIn("vault.tls_not_verified", daemon.log_text())

    def test_a_token_file_is_read_again(self):
        token_file = self.folder / "token"
        token_file.write_text(self.bao.token(["full"]) + "\n")
        token_file.chmod(0o600)
        lines = self.vault(extra=f"    token_file: {token_file}\n") + "kms:\n  backend_type: vault\n  vault: main\n  auth_method: token_file\n  retry_attempts: 0\n"
        daemon = self.file_daemon(lines + "  key_path_prefix: rustfs/kms/keys/" + secrets.token_hex(6) + "\n")
        made = self.round_trip(daemon)
        self.bao.api("POST", "auth/token/revoke", {"token": token_file.read_text().strip()})
        self.assertIn("does not accept our token", self.opens(daemon, made, 503)["message"])
        token_file.write_text(self.bao.token(["full"]))
        self.until(lambda: daemon.admin("POST", "kms/decrypt", {"ciphertext_blob": made["ciphertext_blob"], "encryption_context": {"a": "b"}})[0] == 200)
        code, answer, _ = daemon.admin("POST", "kms/reconfigure", {"backend_type": "vault", "vault": "main", "auth_method": {"TokenFile": {"path": "/etc/shadow"}}})
        self.assertEqual(code, 400)
        self.assertIn("local configuration file", answer["message"])
        code, answer, _ = daemon.admin("POST", "kms/reconfigure", {"address": "https://127.0.0.1:1", "auth_method": "token_file"})
        self.assertEqual(code, 400)

    def test_a_pod_s_jwt_goes_to_its_address_only(self):
        daemon = self.file_daemon("")
        code, answer, _ = daemon.admin("POST", "kms/configure", self.body(auth_method={"Kubernetes": {"role": "hardplate"}}))
        self.assertEqual(code, 400)
        self.assertIn("local configuration file", answer["message"])

    def test_kubernetes_logs_in_with_the_file_s_jwt(self):
        jwt, seen = self.folder / "jwt", []
        jwt.write_text("header.payload.signature\n")
        proxy = Proxy(self.bao.port)
        self.addCleanup(proxy.close)

        def login(handler):
            if handler.path != "/v1/auth/k8s/login":
                return handler.forward()
            seen.append(json.loads(handler.body))
            token = self.bao.token(["full"])
            return handler.answer(200, json.dumps({"auth": {"client_token": token, "lease_duration": 3600, "renewable": True}}).encode())
        proxy.mode = login
        daemon = self.file_daemon(self.vault(ca=None, client=None, address=proxy.address, extra=f"    jwt_file: {jwt}\n    role: storage\n    auth_mount: k8s\n"))
        self.ask(daemon, "kms/configure", {**self.body(auth_method="kubernetes"), "address": proxy.address})
        self.ask(daemon, "kms/start")
        self.round_trip(daemon)
        self.assertEqual(seen, [{"role": "storage", "jwt": "header.payload.signature"}])

    def test_destruction_deletes_what_was_made_and_nothing_else(self):
        daemon = self.file_daemon(self.vault())
        self.ask(daemon, "kms/configure", self.body(retry_attempts=0))
        self.ask(daemon, "kms/start")
        self.bao.api("POST", "transit/keys/admins-key", {"type": "aes256-gcm96"})
        made = {}
        for name in ("own-key", "admins-key"):
            self.ask(daemon, f"kms/key/create?keyName={name}")
            made[name] = self.round_trip(daemon, key_id=name)
        self.ask(daemon, "kms/key/rotate?keyName=own-key")
        for name in made:
            code, answer, _ = daemon.admin("DELETE", "kms/keys/delete", {"key_id": name, "force_immediate": True, "confirm_key_id": name})
            self.assertEqual(code, 200, answer)
            self.assertEqual(self.opens(daemon, made[name], 409)["code"], "KeyDestroyed")
        with self.assertRaises(RuntimeError):
            self.bao.api("GET", "transit/keys/own-key")
        self.assertEqual(self.bao.api("GET", "transit/keys/admins-key")["data"]["latest_version"], 1)
        for name in made:
            self.ask(daemon, f"kms/key/create?keyName={name}")
            self.round_trip(daemon, key_id=name)
        daemon.restart()
        for name in made:
            self.assertEqual(self.opens(daemon, made[name], 409)["code"], "KeyDestroyed", "also once a new key has the id, and after a restart")
            self.round_trip(daemon, key_id=name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
