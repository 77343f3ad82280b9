#!/usr/bin/env python3
"""Requests that no SDK here sends, each right in signature and framing: what they ask for is done as S3 does it, or refused by S3's name."""
import base64
import http.client
import unittest
import urllib.parse
import zlib

from hardplate import ADMIN, AWSRequest, Credentials, Daemon, S3SigV4Auth
from botocore.auth import S3SigV4QueryAuth

BODY = b"what stands behind this is a checksum " * 300
TRAILER = "x-amz-checksum-crc32"
SSE = "x-amz-server-side-encryption"


def crc32(data):
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


class Saying(S3SigV4Auth):
    """Signs the word that it is given as the body's hash."""

    def __init__(self, credentials, word):
        super().__init__(credentials, "s3", "us-east-1")
        self.word = word

    def payload(self, request):
        return self.word


class Wire(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(backend="local")
        cls.credentials = Credentials(cls.daemon.env["HARDPLATE_ACCESS_KEY"], cls.daemon.env["HARDPLATE_SECRET_KEY"])
        cls.s3 = cls.daemon.s3()
        cls.s3.create_bucket(Bucket="box")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    def send(self, method, target, headers=(), body=b""):
        """(status, S3's code or the admin API's, headers) of a request just as it is given."""
        connection = http.client.HTTPConnection(self.daemon.listen, timeout=60)
        connection.request(method, target, body or None, dict(headers))
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        code = text.partition("<Code>")[2].partition("</Code>")[0] or text.partition('"code":"')[2].partition('"')[0]
        return answer.status, code, answer.headers

    def signed(self, method, target, headers=(), body=b"", word="UNSIGNED-PAYLOAD"):
        request = AWSRequest(method, self.daemon.endpoint + target, headers=dict(headers))
        Saying(self.credentials, word).add_auth(request)
        return self.send(method, target, {**dict(request.headers), "Host": self.daemon.listen}, body)

    def presigned(self, method, target, headers=(), body=b"", **parameters):
        request = AWSRequest(method, self.daemon.endpoint + target, params={name.replace("_", "-"): value for name, value in parameters.items()}, headers=dict(headers))
        S3SigV4QueryAuth(self.credentials, "s3", "us-east-1", expires=60).add_auth(request)
        return self.send(method, request.url.removeprefix(self.daemon.endpoint), headers, body)

    def is_stored(self, key):
        return self.signed("HEAD", f"/box/{key}")[0] == 200

    def test_encryption_asked_for_in_a_query_is_never_passed_over(self):
        for name in (SSE, SSE.title(), SSE + "-aws-kms-key-id", SSE + "-context", SSE + "-customer-algorithm"):
            parameter = {name.replace("-", "_"): "AES256" if name == SSE else "aws:kms"}
            for target, method in (("/box/sealed", "PUT"), ("/box/sealed?uploads=", "POST")):
                self.assertEqual(self.presigned(method, target, body=b"secret" if method == "PUT" else b"", **parameter)[:2], (400, "InvalidArgument"), (name, method))
        self.assertFalse(self.is_stored("sealed"))

    def test_user_metadata_in_a_presigned_query_is_kept(self):
        self.assertEqual(self.presigned("PUT", "/box/told", body=b"x", x_amz_meta_colour="dark blue", X_Amz_Meta_Size="7")[0], 200)
        self.assertEqual(self.s3.head_object(Bucket="box", Key="told")["Metadata"], {"colour": "dark blue", "size": "7"})
        self.assertEqual(self.presigned("PUT", "/box/injected", body=b"x", x_amz_meta_a="b\r\nSet-Cookie: c")[:2], (400, "InvalidArgument"))
        self.assertEqual(self.presigned("PUT", "/box/injected", body=b"x", x_amz_meta_a="b" * 2100)[:2], (400, "MetadataTooLarge"))
        self.assertFalse(self.is_stored("injected"))

    def test_what_is_not_there_is_not_there_in_a_query_either(self):
        for parameter in ({"x_amz_acl": "public-read"}, {"X_Amz_Tagging": "a=b"}, {"x_amz_storage_class": "GLACIER"}, {"x_amz_copy_source": "/box/told"}):
            self.assertEqual(self.presigned("PUT", "/box/asked", body=b"x", **parameter)[:2], (501, "NotImplemented"), parameter)
        self.assertFalse(self.is_stored("asked"))
        self.assertEqual(self.presigned("PUT", "/box/asked", body=b"x", x_amz_acl="private")[0], 200)

    def test_an_expected_owner_in_a_presigned_query_is_compared(self):
        for name in ("x_amz_expected_bucket_owner", "X_Amz_Expected_Bucket_Owner"):
            for method, target in (("PUT", "/box/owned"), ("GET", "/box/told"), ("DELETE", "/box")):
                self.assertEqual(self.presigned(method, target, **{name: "111122223333"})[:2], (403, "AccessDenied"), (name, method))
            self.assertFalse(self.is_stored("owned"))
        for owner in ("hardplate", ""):
            self.assertEqual(self.presigned("PUT", "/box/ours", body=b"x", x_amz_expected_bucket_owner=owner)[0], 200, owner)

    def trailing(self, announced, *trailers):
        headers = {"Content-Encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(BODY)), **({"x-amz-trailer": announced} if announced else {})}
        body = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY) + "".join(f"{name}:{value}\r\n" for name, value in trailers).encode() + b"\r\n"
        return self.signed("PUT", "/box/trailing", headers, body, word="STREAMING-UNSIGNED-PAYLOAD-TRAILER")[:2]

    def test_the_trailers_are_those_that_were_announced(self):
        right, note = (TRAILER, crc32(BODY)), ("x-note", "1")
        for announced, trailers in ((TRAILER, [right]), (TRAILER.upper(), [right]), (None, [])):
            self.assertEqual(self.trailing(announced, *trailers), (200, ""), (announced, trailers))
        self.assertEqual(self.trailing(TRAILER, (TRAILER, crc32(b""))), (400, "BadDigest"))
        for announced, trailers in ((TRAILER, []), (TRAILER, [right, right]), (TRAILER, [right, note]), (TRAILER, [note]), (None, [right])):
            self.assertEqual(self.trailing(announced, *trailers), (400, "MalformedTrailerError"), (announced, trailers))

    def test_two_slashes_are_no_way_to_the_list_of_buckets(self):
        for target in ("//", "//box/told", "/" + ADMIN + "kms/status"):
            self.assertEqual(self.signed("GET", target)[:2], (400, "InvalidBucketName"), target)
        self.assertEqual(self.signed("GET", "/")[0], 200)

    def test_what_is_wrong_with_a_signature_has_s3s_name(self):
        request = AWSRequest("GET", self.daemon.endpoint + "/box/told")
        Saying(self.credentials, "UNSIGNED-PAYLOAD").add_auth(request)
        self.assertEqual(self.send("GET", "/box/told", {**dict(request.headers), "x-amz-acl": "private"})[:2], (403, "AccessDenied"))
        self.assertEqual(self.signed("GET", "/box/told", {"x-amz-security-token": "none"})[:2], (400, "InvalidToken"))
        url = self.daemon.s3(signature_version="s3v4").generate_presigned_url("put_object", {"Bucket": "box", "Key": "typed", "ContentType": "text/x"})
        self.assertEqual(self.send("PUT", url.removeprefix(self.daemon.endpoint), body=b"of no type")[:2], (403, "SignatureDoesNotMatch"))
        self.assertEqual(self.send("GET", "/box/told", {"Authorization": "AWS4-HMAC-SHA256 x"})[:2], (400, "AuthorizationHeaderMalformed"))
        self.assertEqual(self.send("GET", "/box/told?X-Amz-Algorithm=AWS4-HMAC-SHA256")[:2], (400, "AuthorizationQueryParametersError"))

    def test_a_405_says_what_is_allowed_and_a_401_what_is_wanted(self):
        admin = ADMIN + "kms/status"
        for target, method, allowed in ((admin, "DELETE", "GET, POST"), ("/", "PUT", "GET"), ("/box", "OPTIONS", "GET, HEAD, PUT, DELETE"), ("/box?uploads", "PUT", "GET"),
                                        ("/hardplate/health/live", "PUT", "GET, HEAD")):
            word = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
            status, code, headers = self.signed(method, target, word=word)
            self.assertEqual((status, code), (405, "MethodNotAllowed"), target)
            self.assertEqual(sorted(headers["Allow"].split(", ")), sorted(allowed.split(", ")), target)
        status, _, headers = self.send("GET", admin)
        self.assertEqual((status, headers["WWW-Authenticate"]), (401, "AWS4-HMAC-SHA256"))
        self.assertEqual(self.send("HEAD", "/hardplate/health/live")[0], 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
