#!/usr/bin/env python3
"""What is set on keys, asked from outside: who may use them, and what every route answers."""
import base64
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from hardplate import Daemon, FileDaemon

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


class Asking(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(backend="local")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    def ok(self, method, path, body=None):
        code, answer, _ = self.daemon.admin(method, path, body)
        self.assertEqual(code, 200, answer)
        return answer

    def refused(self, code, method, path, body=None):
        got, answer, _ = self.daemon.admin(method, path, body)
        self.assertEqual(got, code, answer)
        return answer

    def make(self, name):
        return self.ok("POST", "kms/keys", {"tags": {"name": name}})["key_metadata"]


class Policies(Asking):
    def test_a_policy_holds_on_the_data_key_routes_and_on_objects(self):
        daemon, s3, admin_s3 = self.daemon, self.daemon.s3(), self.daemon.s3(user=False)
        user = daemon.env["HARDPLATE_USER_ACCESS_KEY"]
        self.make("ledger")
        s3.create_bucket(Bucket="invoices")
        s3.create_bucket(Bucket="elsewhere")
        self.assertEqual(self.ok("GET", "kms/keys/policy?key_id=ledger"), {"key_id": "ledger", "policy": None})
        before = self.ok("POST", "kms/generate-data-key", {"key_id": "ledger"})
        policy = {"grants": [{"principals": [user], "operations": ["GenerateDataKey", "Decrypt"], "purposes": ["object"], "context": {"bucket": "invoices"}}]}
        answer = self.ok("PUT", "kms/keys/policy", {"key_id": "ledger", "policy": policy})
        self.assertEqual((answer["success"], answer["key_id"]), (True, "ledger"))
        self.assertEqual(self.ok("GET", "kms/keys/policy?key_id=ledger")["policy"], policy)
        sse = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "ledger"}
        s3.put_object(Bucket="invoices", Key="1", Body=b"paid", **sse)
        self.assertEqual(s3.get_object(Bucket="invoices", Key="1")["Body"].read(), b"paid")
        for client, bucket in ((s3, "elsewhere"), (admin_s3, "invoices")):
            with self.assertRaises(ClientError) as caught:
                client.put_object(Bucket=bucket, Key="2", Body=b"x", **sse)
            self.assertEqual(caught.exception.response["Error"]["Code"], "AccessDenied")
            self.assertIn("ledger", caught.exception.response["Error"]["Message"])
        with self.assertRaises(ClientError) as caught:
            admin_s3.get_object(Bucket="invoices", Key="1")
        self.assertEqual(caught.exception.response["ResponseMetadata"]["HTTPStatusCode"], 403)
        answer = self.refused(403, "POST", "kms/decrypt", {"ciphertext_blob": before["ciphertext_blob"]})
        self.assertEqual(answer["code"], "AccessDenied")
        self.assertIn("Decrypt", answer["message"])
        self.assertIn("ledger", answer["message"])
        daemon.restart()
        self.refused(403, "POST", "kms/generate-data-key", {"key_id": "ledger"})
        self.ok("PUT", "kms/keys/policy", {"key_id": "ledger", "policy": None})
        self.assertEqual(self.ok("POST", "kms/decrypt", {"ciphertext_blob": before["ciphertext_blob"]})["plaintext_key"], before["plaintext_key"])

    def test_malformed_policies_are_refused_by_name(self):
        self.make("k")
        grant = {"principals": ["*"], "operations": ["*"]}
        for policy, name in (([], "policy"), ({}, "grants"), ({"grants": [{**grant, "contxt": {}}]}, "contxt"), ({"grants": [{**grant, "operations": ["decrypt"]}]}, "decrypt"),
                             ({"grants": [{**grant, "principals": "*"}]}, "principals"), ({"grants": [{**grant, "context": {"a": 1}}]}, "context")):
            self.assertIn(name, self.refused(400, "PUT", "kms/keys/policy", {"key_id": "k", "policy": policy})["message"])
        self.assertIn("policy", self.refused(400, "PUT", "kms/keys/policy", {"key_id": "k"})["message"])
        self.assertIn("key_id", self.refused(400, "GET", "kms/keys/policy")["message"])
        self.refused(404, "PUT", "kms/keys/policy", {"key_id": "nobody", "policy": None})


class Metadata(Asking):
    def test_description_and_tags(self):
        self.make("described")
        answer = self.ok("POST", "kms/keys/update-description", {"key_id": "described", "description": "of the ledger"})
        self.assertEqual((answer["success"], answer["key_id"], answer["key_metadata"]["description"]), (True, "described", "of the ledger"))
        answer = self.ok("POST", "kms/keys/update-description", {"key_id": "described", "Description": "of the books"})
        self.assertEqual(answer["key_metadata"]["description"], "of the books")
        answer = self.ok("POST", "kms/keys/tag", {"key_id": "described", "tags": {"owner": "a", "env": "prod"}})
        self.assertEqual(answer["key_metadata"]["tags"], {"name": "described", "owner": "a", "env": "prod"})
        answer = self.ok("POST", "kms/keys/untag", {"key_id": "described", "tag_keys": ["env"]})
        self.assertEqual(answer["key_metadata"]["tags"], {"name": "described", "owner": "a"})
        for path, body, name in (("update-description", {}, "description"), ("update-description", {"description": 5}, "description"), ("tag", {"tags": ["a"]}, "tags"),
                                 ("update-description", {"Description": "a", "description": "b"}, "description"), ("tag", {"Tags": {"a": "b"}, "tags": {"a": "c"}}, "Tags"),
                                 ("tag", {"Tags": {"name": "x"}}, "name"), ("tag", {"tags": {"a": 1}}, "a"), ("tag", {"tags": {"name": "x"}}, "name"), ("untag", {"tag_keys": "a"}, "tag_keys")):
            self.assertIn(name, self.refused(400, "POST", "kms/keys/" + path, {"key_id": "described", **body})["message"])

    def test_lists_filter_by_state_and_usage(self):
        for name in ("f-1", "f-2", "f-3"):
            self.make(name)
        self.ok("POST", "kms/keys/disable", {"key_id": "f-2"})
        rows = self.ok("GET", "kms/keys?status=Disabled")["keys"]
        self.assertEqual([row["key_id"] for row in rows], ["f-2"])
        active = [row["key_id"] for row in self.ok("GET", "kms/keys?status=Active&usage=EncryptDecrypt")["keys"]]
        self.assertTrue({"f-1", "f-3"} <= set(active) and "f-2" not in active)
        self.assertEqual(self.ok("GET", "kms/keys?usage=SignVerify")["keys"], [])
        self.assertIn("status", self.refused(400, "GET", "kms/keys?status=asleep")["message"] + " status")
        self.refused(400, "GET", "kms/keys?usage=nothing")
        self.assertEqual([row["status"] for row in self.ok("GET", "kms/key/list")["keys"] if row["key_id"] == "f-2"], ["Disabled"])

    def test_the_older_names_of_routes(self):
        made = self.ok("POST", "kms/create-key?key-id=legacy", {"key_usage": "EncryptDecrypt", "description": "by its older name"})
        self.assertEqual((made["key_id"], made["key_metadata"]["description"]), ("legacy", "by its older name"))
        for query in ("keyId", "key-id", "key", "key_id"):
            self.assertEqual(self.ok("GET", f"kms/describe-key?{query}=legacy")["key_metadata"]["key_id"], "legacy")
        listed = self.ok("GET", "kms/list-keys?limit=1000")
        self.assertEqual((listed["success"], listed["truncated"], listed["unreadable_key_ids"]), (True, False, []))
        self.assertIn("legacy", [row["key_id"] for row in listed["keys"]])
        self.assertIn("'name'", self.refused(400, "POST", "kms/create-key?key-id=legacy-2", {"tags": {"name": "another"}})["message"])
        self.ok("POST", "kms/create-key?key-id=legacy-2", {"tags": {"name": "legacy-2"}})
        self.refused(404, "GET", "kms/describe-key?keyId=nobody")
        self.refused(400, "GET", "kms/describe-key")

    def test_impact_and_deletion(self):
        s3 = self.daemon.s3()
        self.make("needed")
        s3.create_bucket(Bucket="impact")
        s3.put_object(Bucket="impact", Key="o", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId="needed")
        self.assertNotIn("impact", self.ok("GET", "kms/keys/needed"))
        impact = self.ok("GET", "kms/keys/needed?impact=true")["impact"]
        self.assertEqual([r["kind"] for r in impact["references"]], ["objects"])
        self.assertTrue(impact["references"][0]["detail"].startswith("1 "))
        self.assertEqual((impact["coverage"]["scanned"], impact["completeness"]), (["objects", "configuration"], "partial"))
        self.assertIn("allow_immediate_deletion", self.refused(400, "DELETE", "kms/keys/delete", {"key_id": "needed", "force_immediate": True})["message"])
        self.refused(400, "DELETE", "kms/keys/delete", {"key_id": "needed", "confirm_key_id": "other"})
        self.assertEqual(self.ok("GET", "kms/keys/needed")["key_metadata"]["key_state"], "Enabled")
        answer = self.ok("DELETE", "kms/keys/delete?keyId=needed&pending_window_in_days=8")
        self.assertEqual((answer["success"], answer["key_id"], len(answer["impact"]["references"])), (True, "needed", 1))
        self.assertTrue(answer["deletion_date"])
        self.refused(400, "DELETE", "kms/keys/delete?keyId=needed&pending_window_in_days=31")
        self.ok("POST", "kms/keys/cancel-deletion", {"key_id": "needed"})

    def test_rotation_is_set_and_shown(self):
        self.assertIs(self.make("turning")["rotation_enabled"], False)
        metadata = self.ok("PUT", "kms/keys/rotation", {"key_id": "turning", "enabled": True, "period_days": 30, "max_wraps": 1000})["key_metadata"]
        self.assertEqual((metadata["rotation_enabled"], metadata["rotation_period_days"], metadata["rotation_max_wraps"], metadata["rotation_due"]), (True, 30, 1000, False))
        self.assertTrue(metadata["next_rotation_date"])
        self.ok("POST", "kms/keys/rotate", {"key_id": "turning"})
        described = self.ok("GET", "kms/keys/turning")["key_metadata"]
        self.assertEqual([v["version"] for v in described["versions"]], [1, 2])
        self.assertIn("wraps", described)
        self.assertIs(self.ok("PUT", "kms/keys/rotation", {"key_id": "turning", "enabled": False})["key_metadata"]["rotation_enabled"], False)
        for body in ({"period_days": 0}, {"period_days": "7"}, {"max_wraps": -1}, {"max_wraps": 2 ** 33}, {"period_days": 3651}, {"enabled": 1}):
            self.refused(400, "PUT", "kms/keys/rotation", {"key_id": "turning", **body})
        self.assertIn("from 1 to 3650", self.refused(400, "PUT", "kms/keys/rotation", {"key_id": "turning", "period_days": 0})["message"])


class Rewrap(Asking):
    def test_one_envelope_comes_under_the_current_version(self):
        self.make("wrapper")
        self.make("other")
        context = {"tenant": "a"}
        made = self.ok("POST", "kms/generate-data-key", {"key_id": "wrapper", "encryption_context": context})
        self.ok("POST", "kms/keys/rotate", {"key_id": "wrapper"})
        answer = self.ok("POST", "kms/rewrap", {"ciphertext_b64": made["ciphertext_blob"], "context": context})
        self.assertEqual((answer["key_id"], answer["version"]), ("wrapper", 2))
        self.assertNotEqual(answer["ciphertext_b64"], made["ciphertext_blob"])
        for blob in (answer["ciphertext_b64"], made["ciphertext_blob"]):
            self.assertEqual(self.ok("POST", "kms/decrypt", {"ciphertext_blob": blob, "encryption_context": context})["plaintext_key"], made["plaintext_key"])
        self.assertEqual(self.ok("POST", "kms/rewrap", {"ciphertext_blob": made["ciphertext_blob"], "encryption_context": context, "key_id": "other"})["key_id"], "other")
        self.assertEqual(self.refused(400, "POST", "kms/rewrap", {"ciphertext_b64": made["ciphertext_blob"]})["code"], "InvalidCiphertext")
        self.assertEqual(self.refused(400, "POST", "kms/rewrap", {"ciphertext_b64": made["ciphertext_blob"], "context": []})["code"], "InvalidRequest")
        self.refused(400, "POST", "kms/rewrap", {"ciphertext_b64": "%%", "context": context})
        self.refused(400, "POST", "kms/rewrap", {})
        self.refused(404, "POST", "kms/rewrap", {"ciphertext_b64": made["ciphertext_blob"], "context": context, "key_id": "nobody"})

    def test_an_envelope_moves_from_files_into_a_token(self):
        self.make("moving")
        made = self.ok("POST", "kms/generate-data-key", {"key_id": "moving", "encryption_context": {"a": "b"}})
        body = {"ciphertext_b64": made["ciphertext_blob"], "context": {"a": "b"}}
        self.ok("POST", "kms/reconfigure", json.loads(self.daemon.env["HARDPLATE_PKCS11_CONFIG"]))
        try:
            self.assertIn("moving", self.refused(404, "POST", "kms/rewrap", body)["message"])
            self.make("moving")
            moved = self.ok("POST", "kms/rewrap", body)["ciphertext_b64"]
            for blob, mechanism, state in ((moved, "aes-gcm", "active"), (made["ciphertext_blob"], "local-aes-gcm", "former")):
                why = self.ok("POST", "kms/explain", {"ciphertext_blob": blob, "encryption_context": {"a": "b"}})
                self.assertEqual((why["opens"], why["mechanism"], why["keystore"]["state"]), (True, mechanism, state), why)
            opened = self.ok("POST", "kms/decrypt", {"ciphertext_blob": moved, "encryption_context": {"a": "b"}})
            self.assertEqual((opened["key_id"], opened["plaintext_key"]), ("moving", made["plaintext_key"]))
            self.assertIs(self.ok("GET", "kms/status")["capabilities"]["import"], False)
        finally:
            self.ok("POST", "kms/reconfigure", {"backend_type": "local"})


class Keystores(Asking):
    def backends(self):
        return {entry["state"]: entry for entry in self.ok("GET", "kms/backends")["backends"]}

    def test_a_former_keystore_is_kept_until_nothing_needs_it(self):
        s3 = self.daemon.s3()
        s3.create_bucket(Bucket="kept")
        s3.put_object(Bucket="kept", Key="o", Body=b"first", ServerSideEncryption="aws:kms")
        made = self.ok("POST", "kms/generate-data-key", {})
        first = self.backends()["active"]
        self.assertEqual((first["backend"], first["open"], first["objects"], first["api_data_keys"]), ("local", True, 1, "unknown"))
        self.assertEqual(self.refused(409, "POST", "kms/backends/detach", {"instance": first["instance"], "confirm_external": True})["code"], "Conflict")
        for body in ({"instance": "0" * 16}, {"instance": "0" * 16, "confirm_external": True}):
            self.assertEqual(self.refused(404, "POST", "kms/backends/detach", body)["code"], "NotFound")
        self.ok("POST", "kms/reconfigure", json.loads(self.daemon.env["HARDPLATE_PKCS11_CONFIG"]))
        both = self.backends()
        self.assertEqual((both["former"]["instance"], both["former"]["objects"], both["active"]["backend"]), (first["instance"], 1, "pkcs11"))
        answer = self.refused(409, "POST", "kms/backends/detach", {"instance": first["instance"], "confirm_external": True})
        self.assertEqual(answer["code"], "KeyStillReferenced")
        self.assertIn("1 objects", answer["message"])
        explained = self.ok("POST", "kms/explain", {"bucket": "kept", "key": "o"})
        self.assertEqual((explained["mode"], explained["envelope"]["opens"], explained["envelope"]["keystore"]["state"], explained["envelope"]["purpose"]),
                         ("SSE-KMS", True, "former", "object"))
        s3.delete_object(Bucket="kept", Key="o")
        self.assertIn("confirm_external", self.refused(409, "POST", "kms/backends/detach", {"instance": first["instance"]})["message"])
        self.ok("POST", "kms/backends/detach", {"instance": first["instance"].upper(), "confirm_external": True})
        self.assertIn("already", self.refused(409, "POST", "kms/backends/detach", {"instance": first["instance"]})["message"])
        self.assertEqual(self.backends()["detached"]["instance"], first["instance"])
        answer = self.refused(503, "POST", "kms/decrypt", {"ciphertext_blob": made["ciphertext_blob"]})
        self.assertEqual(answer["code"], "KeyUnavailable")
        self.assertIn("detached", answer["message"])
        why = self.ok("POST", "kms/explain", {"ciphertext_blob": made["ciphertext_blob"]})
        self.assertEqual((why["opens"], why["code"], why["keystore"]["state"]), (False, "KeyUnavailable", "detached"))
        self.ok("POST", "kms/reconfigure", {"backend_type": "local"})
        self.assertEqual(self.ok("POST", "kms/decrypt", {"ciphertext_blob": made["ciphertext_blob"]})["plaintext_key"], made["plaintext_key"])

    def test_explain_says_why_and_nothing_secret(self):
        self.make("explained")
        made = self.ok("POST", "kms/generate-data-key", {"key_id": "explained", "encryption_context": {"a": "b"}})
        answer = self.ok("POST", "kms/explain", {"ciphertext_blob": made["ciphertext_blob"], "encryption_context": {"a": "b"}})
        self.assertEqual((answer["opens"], answer["key_id"], answer["version"], answer["why"]), (True, "explained", 1, None))
        self.assertNotIn(made["plaintext_key"], json.dumps(answer))
        answer = self.ok("POST", "kms/explain", {"ciphertext_blob": made["ciphertext_blob"]})
        self.assertEqual((answer["opens"], answer["code"]), (False, "InvalidCiphertext"))
        self.refused(400, "POST", "kms/explain", {"ciphertext_blob": "AAAA"})
        self.refused(400, "POST", "kms/explain", {})
        self.refused(400, "POST", "kms/explain", {"bucket": "kept"})
        self.refused(404, "POST", "kms/explain", {"bucket": "nowhere", "key": "o"})
        s3 = self.daemon.s3()
        s3.create_bucket(Bucket="plain")
        s3.put_object(Bucket="plain", Key="o", Body=b"x")
        self.assertEqual(self.ok("POST", "kms/explain", {"bucket": "plain", "key": "o"})["envelope"], None)
        self.refused(404, "POST", "kms/explain", {"bucket": "plain", "key": "none"})


class WhatTheFileAllows(Asking):
    @classmethod
    def setUpClass(cls):
        cls.daemon = FileDaemon("kms: {backend_type: local}\nallow_import: true\nallow_immediate_deletion: true\n")

    def sealed(self):
        """New material, in Base64, as openssl encrypts it to the daemon's wrapping key."""
        parameters = self.ok("GET", "kms/keys/import-parameters")
        self.assertEqual((parameters["wrapping_key_spec"], parameters["wrapping_algorithm"]), ("RSA_3072", "RSAES_OAEP_SHA_256"))
        (self.daemon.folder / "wrapping.der").write_bytes(base64.b64decode(parameters["public_key"]))
        sealed = subprocess.run(["openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", str(self.daemon.folder / "wrapping.der"), "-pkeyopt",
                                 "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"], input=os.urandom(32), stdout=subprocess.PIPE, check=True).stdout
        return base64.b64encode(sealed).decode()

    def test_an_import_takes_the_names_that_a_creation_takes(self):
        body = {"key_id": "spelled", "encrypted_key_material": self.sealed()}
        for wrong in ({"Tags": {"name": "other"}}, {"tags": {"name": "other"}}, {"Tags": {"a": "b"}, "tags": {"a": "c"}}, {"Tags": []}, {"Description": 5},
                      {"Description": "a", "description": "b"}):
            self.refused(400, "POST", "kms/keys/import", {**body, **wrong})
        self.refused(404, "GET", "kms/keys/spelled")
        metadata = self.ok("POST", "kms/keys/import", {**body, "Description": "from outside", "Tags": {"name": "spelled", "team": "red"}})["key_metadata"]
        self.assertEqual((metadata["description"], metadata["tags"]), ("from outside", {"name": "spelled", "team": "red"}))

    def test_a_key_is_imported_as_openssl_encrypts_it(self):
        body = {"key_id": "brought", "encrypted_key_material": self.sealed(), "description": "from outside"}
        metadata = self.ok("POST", "kms/keys/import", body)["key_metadata"]
        self.assertEqual((metadata["origin"], metadata["key_state"], metadata["description"]), ("EXTERNAL", "Enabled", "from outside"))
        self.assertEqual(self.refused(409, "POST", "kms/keys/import", body)["code"], "AlreadyExists")
        made = self.ok("POST", "kms/generate-data-key", {"key_id": "brought"})
        self.daemon.restart()
        self.assertEqual(self.ok("POST", "kms/decrypt", {"ciphertext_blob": made["ciphertext_blob"]})["plaintext_key"], made["plaintext_key"])
        self.assertEqual(self.refused(400, "POST", "kms/keys/import", {**body, "key_id": "late"})["code"], "InvalidCiphertext")
        self.assertEqual(self.refused(409, "POST", "kms/keys/rotate", {"key_id": "brought"})["code"], "Conflict")
        for wrong in ({"encrypted_key_material": "AAAA"}, {"encrypted_key_material": "%"}, {}):
            self.refused(400, "POST", "kms/keys/import", {"key_id": "wrong", **wrong})
        self.refused(404, "GET", "kms/keys/wrong")

    def test_a_key_that_nothing_needs_goes_at_once(self):
        s3 = boto3.client("s3", endpoint_url=self.daemon.endpoint, region_name="us-east-1", aws_access_key_id="ops", aws_secret_access_key="s" * 40,
                          config=Config(s3={"addressing_style": "path"}))
        self.make("short-lived")
        s3.create_bucket(Bucket="going")
        s3.put_object(Bucket="going", Key="o", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId="short-lived")
        body = {"key_id": "short-lived", "force_immediate": True, "confirm_key_id": "short-lived"}
        self.assertEqual(self.refused(409, "DELETE", "kms/keys/delete", body)["code"], "KeyStillReferenced")
        self.assertEqual(s3.get_object(Bucket="going", Key="o")["Body"].read(), b"x")
        s3.delete_object(Bucket="going", Key="o")
        metadata = self.ok("DELETE", "kms/keys/delete", body)["key_metadata"]
        self.assertEqual(metadata["key_state"], "Destroyed")
        self.assertLess(abs(datetime.datetime.fromisoformat(metadata["deletion_date"].replace("Z", "+00:00")) - datetime.datetime.now(datetime.timezone.utc)),
                        datetime.timedelta(hours=1), "it is gone now")
        self.assertEqual(self.refused(409, "POST", "kms/generate-data-key", {"key_id": "short-lived"})["code"], "KeyDestroyed")


class Passphrase(unittest.TestCase):
    def refused_start(self, daemon, word):
        daemon.stop()
        with self.assertRaises(RuntimeError):
            daemon.start(daemon.listen)
        daemon.stop()
        self.assertIn(word, daemon.log_text().splitlines()[-1])

    def test_the_root_secret_comes_from_a_passphrase(self):
        folder = tempfile.mkdtemp(prefix="hpl-passphrase-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        secret, kdf = pathlib.Path(folder) / "passphrase", None
        secret.write_text("correct horse battery staple\n")
        secret.chmod(0o400)
        daemon = FileDaemon(f"kms: {{backend_type: local}}\nroot: {{passphrase_file: {secret}, require_external: true}}\n")
        self.addCleanup(daemon.remove)
        code, made, _ = daemon.admin("POST", "kms/generate-data-key", {})
        self.assertEqual(code, 200, made)
        kdf = daemon.folder / "state" / "root.kdf"
        self.assertRegex(kdf.read_text(), r"^scrypt 17 8 1 [0-9a-f]{64} [0-9a-f]{32}\n$")
        self.assertEqual(kdf.stat().st_mode & 0o777, 0o600)
        self.assertFalse((daemon.folder / "state" / "root.key").exists())
        daemon.restart()
        self.assertEqual(daemon.admin("POST", "kms/decrypt", {"ciphertext_blob": made["ciphertext_blob"]})[1]["plaintext_key"], made["plaintext_key"])
        right, kept = secret.read_text(), kdf.read_text()
        for text, word in (("wrong horse battery staple\n", "not the one"), ("short\n", "12 to 1024")):
            secret.chmod(0o600)
            secret.write_text(text)
            self.refused_start(daemon, word)
        secret.write_text(right)
        for text, word in (("scrypt 30 8 1 " + "00" * 32 + " " + "00" * 16 + "\n", "damaged"), (kept.replace("scrypt 17", "scrypt 16"), "not the one"), ("", "damaged")):
            kdf.write_text(text)
            self.refused_start(daemon, word)
        kdf.unlink()
        self.refused_start(daemon, "missing")
        kdf.write_text(kept)
        daemon.start(daemon.listen)
        self.assertEqual(daemon.admin("POST", "kms/decrypt", {"ciphertext_blob": made["ciphertext_blob"]})[0], 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
