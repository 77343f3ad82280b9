#!/usr/bin/env python3
"""What is set on keys, asked from outside: who may use them, and what every route answers."""
import unittest

from botocore.exceptions import ClientError

from hardplate import Daemon


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


if __name__ == "__main__":
    unittest.main(verbosity=2)
