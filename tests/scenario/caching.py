#!/usr/bin/env python3
"""Caching choices from outside: a key's switch, objects under bucket keys, the numbers in status and metrics."""
import base64
import re
import unittest
import urllib.request

from botocore.exceptions import ClientError
from hardplate import Daemon


class Caching(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()
        cls.s3 = cls.daemon.s3()
        cls.s3.create_bucket(Bucket="cached")
        cls.s3.create_bucket(Bucket="other")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    def key(self, name, **caching):
        self.assertEqual(self.daemon.admin("POST", "kms/keys", {"tags": {"name": name}})[0], 200)
        code, answer, _ = self.daemon.admin("PUT", "kms/keys/caching", {"key_id": name, **caching})
        self.assertEqual(code, 200, answer)
        return answer["key_metadata"]["caching"]

    def put(self, name, key, body, bucket="cached"):
        return self.s3.put_object(Bucket=bucket, Key=key, Body=body, ServerSideEncryption="aws:kms", SSEKMSKeyId=name)

    def get(self, key, bucket="cached"):
        return self.s3.get_object(Bucket=bucket, Key=key)

    def numbers(self, name):
        return self.daemon.admin("GET", "kms/status")[1][name]

    def metric(self, name):
        with urllib.request.urlopen(self.daemon.endpoint + "/hardplate/metrics") as answer:
            found = re.search("^" + re.escape(name) + " ([0-9.]+)$", answer.read().decode(), re.M)
        self.assertTrue(found, name)
        return float(found.group(1))

    def test_the_choice_is_checked_and_shown(self):
        shown = self.key("choice", decrypt_seconds=20, outage={"cache_seconds": 600})
        self.assertEqual(shown, {"decrypt_seconds": 20, "decrypt_uses": 1000, "bucket_key": False, "outage": {"cache_seconds": 600}})
        for body in ({"decrypt_seconds": 61}, {"bucket_key_minutes": 16}, {"outage": "open"}):
            code, answer, _ = self.daemon.admin("PUT", "kms/keys/caching", {"key_id": "choice", **body})
            self.assertEqual((code, answer["code"]), (400, "InvalidRequest"))
            self.assertIn(next(iter(body)), answer["message"])
        self.assertEqual(self.daemon.admin("PUT", "kms/keys/caching", {"key_id": "choice"})[1]["key_metadata"]["caching"]["decrypt_seconds"], 0)
        self.assertEqual(self.daemon.admin("PUT", "kms/keys/caching", {"key_id": "nobody"})[0], 404)
        user = self.daemon.env["HARDPLATE_USER_ACCESS_KEY"], self.daemon.env["HARDPLATE_USER_SECRET_KEY"]
        self.assertEqual(self.daemon.admin("PUT", "kms/keys/caching", {"key_id": "choice"}, *user)[0], 403)

    def test_objects_under_a_bucket_key(self):
        self.key("bucketed", bucket_key=True)
        before = self.metric('hardplate_kms_backend_seconds_count{operation="generate"}')
        for i in range(20):
            put = self.put("bucketed", f"o/{i}", b"%d" % i)
            self.assertTrue(put["BucketKeyEnabled"])
        self.assertLess(self.metric('hardplate_kms_backend_seconds_count{operation="generate"}') - before, 5)
        self.assertTrue(self.put("bucketed", "elsewhere", b"x", "other")["BucketKeyEnabled"])
        self.assertEqual(self.daemon.admin("GET", "kms/keys/bucketed")[1]["key_metadata"]["objects"], 21)
        self.daemon.restart()
        for i in range(20):
            got = self.get(f"o/{i}")
            self.assertEqual((got["Body"].read(), got["BucketKeyEnabled"], got["SSEKMSKeyId"]), (b"%d" % i, True, "bucketed"))
        self.assertTrue(self.s3.head_object(Bucket="cached", Key="o/1")["BucketKeyEnabled"])
        self.assertEqual(self.get("elsewhere", "other")["Body"].read(), b"x")
        self.assertGreater(self.numbers("bucket_keys")["hit_count"], 15)
        self.daemon.admin("POST", "kms/keys/rotate", {"key_id": "bucketed"})
        self.put("bucketed", "o/0", b"again")
        self.assertEqual((self.get("o/0")["Body"].read(), self.get("o/1")["Body"].read()), (b"again", b"1"))
        self.daemon.admin("POST", "kms/keys/disable", {"key_id": "bucketed"})
        for key in ("o/0", "o/1"):
            with self.assertRaises(ClientError):
                self.get(key)
        self.daemon.admin("POST", "kms/keys/enable", {"key_id": "bucketed"})
        self.daemon.admin("PUT", "kms/keys/caching", {"key_id": "bucketed"})
        self.assertEqual(self.get("o/1")["Body"].read(), b"1")
        self.assertNotIn("BucketKeyEnabled", self.put("bucketed", "o/2", b"plain choice"))
        asked = self.s3.put_object(Bucket="cached", Key="o/3", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId="bucketed", BucketKeyEnabled=True)
        self.assertNotIn("BucketKeyEnabled", asked, "the key's choice decides, not the request's")

    def test_a_multipart_upload_under_a_bucket_key(self):
        self.key("parts", bucket_key=True)
        upload = self.s3.create_multipart_upload(Bucket="cached", Key="big", ServerSideEncryption="aws:kms", SSEKMSKeyId="parts")
        self.assertTrue(upload["BucketKeyEnabled"])
        where = {"Bucket": "cached", "Key": "big", "UploadId": upload["UploadId"]}
        etags = [self.s3.upload_part(**where, PartNumber=n, Body=bytes([n]) * size)["ETag"] for n, size in ((1, 5 << 20), (2, 100))]
        self.s3.complete_multipart_upload(**where, MultipartUpload={"Parts": [{"PartNumber": n + 1, "ETag": etag} for n, etag in enumerate(etags)]})
        self.assertEqual(self.get("big")["Body"].read(), b"\1" * (5 << 20) + b"\2" * 100)

    def test_kept_data_keys_spare_the_backend_until_the_cache_is_cleared(self):
        self.key("kept", decrypt_seconds=60)
        made = self.daemon.admin("POST", "kms/generate-data-key", {"key_id": "kept", "encryption_context": {"a": "b"}})[1]
        ask = {"ciphertext_blob": made["ciphertext_blob"], "encryption_context": {"a": "b"}}
        calls = 'hardplate_kms_backend_seconds_count{operation="decrypt"}'
        self.daemon.admin("POST", "kms/decrypt", ask)
        before = self.metric(calls)
        for _ in range(5):
            self.assertEqual(self.daemon.admin("POST", "kms/decrypt", ask)[1]["plaintext_key"], made["plaintext_key"])
        self.assertEqual(self.metric(calls), before)
        wrong = dict(ask, encryption_context={"a": "c"})
        self.assertEqual(self.daemon.admin("POST", "kms/decrypt", wrong)[1]["code"], "InvalidCiphertext")
        self.assertEqual(self.daemon.admin("POST", "kms/clear-cache")[0], 204)
        self.daemon.admin("POST", "kms/decrypt", ask)
        self.assertEqual(self.metric(calls), before + 2)
        self.daemon.admin("POST", "kms/keys/disable", {"key_id": "kept"})
        self.assertEqual(self.daemon.admin("POST", "kms/decrypt", ask)[1]["code"], "KeyDisabled")
        self.assertEqual(len(base64.b64decode(made["plaintext_key"])), 32)

    def test_status_has_the_numbers(self):
        status = self.daemon.admin("GET", "kms/status")[1]
        for group in ("cache_stats", "decrypt_cache", "bucket_keys"):
            self.assertLessEqual({"hit_count", "miss_count", "entry_count", "eviction_count"}, set(status[group]))
        self.assertEqual((status["details"]["breaker"], status["details"]["refused_when_full"]), ("closed", 0))
        self.assertEqual(self.metric("hardplate_kms_breaker_open"), 0)


if __name__ == "__main__":
    unittest.main(verbosity=1)
