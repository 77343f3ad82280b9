#!/usr/bin/env python3
"""Makes sigv4.json: requests signed by botocore, which nobody here wrote, for sigv4_test.c.

Where AWS published the signature (the S3 API reference's examples, the general SigV4 test suite) it stands here too, and the script
stops if botocore disagrees. Run: python3 make_sigv4.py > sigv4.json   (botocore 1.43 was used)
"""
import datetime
import hashlib
import json
import sys
import urllib.parse

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

S3_KEYS = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
SUITE_KEYS = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
S3_TIME = datetime.datetime(2013, 5, 24)
SUITE_TIME = datetime.datetime(2015, 8, 30, 12, 36)
EMPTY = hashlib.sha256(b"").hexdigest()
cases = []


class AsSent:
    """Takes x-amz-content-sha256 as it stands, as a client does that hashed its body elsewhere."""

    def payload(self, request):
        return request.headers.get("X-Amz-Content-SHA256") or super().payload(request)


class S3Header(AsSent, botocore.auth.S3SigV4Auth):
    def _modify_request_before_signing(self, request):
        given = request.headers.get("X-Amz-Content-SHA256")
        super()._modify_request_before_signing(request)
        if given:
            del request.headers["X-Amz-Content-SHA256"]
            request.headers["X-Amz-Content-SHA256"] = given


class S3Dated(S3Header):
    """The documentation's PUT sends Date and x-amz-date at once."""

    def _set_necessary_date_headers(self, request):
        request.headers["X-Amz-Date"] = request.context["timestamp"]


def sign(name, signer, keys, when, method, url, headers=(), body=b"", published=None, sent_query=None, params=None):
    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: when
    request = AWSRequest(method=method, url=url, data=body)
    if params is not None:
        request.params = params
    for header, value in headers:
        request.headers.add_header(header, value)
    service = "service" if keys is SUITE_KEYS else signer.service
    auth = signer(Credentials(*keys), service, "us-east-1", **signer.extra)
    auth.add_auth(request)
    parts = urllib.parse.urlsplit(request.url)
    sent = [[k, v] for k, v in request.headers.items()]
    if not any(k.lower() == "host" for k, _ in sent):
        sent.insert(0, ["Host", parts.netloc])
    query = parts.query if sent_query is None else sent_query
    authorization = request.headers.get("Authorization")
    signature = (authorization or request.url).rsplit("ignature=", 1)[1]
    if published and signature != published:
        sys.exit(f"{name}: botocore gives {signature}, published is {published}")
    cases.append({
        "name": name, "method": method, "path": parts.path, "query": query, "headers": sent, "service": service,
        "access_key": keys[0], "secret_key": keys[1], "unix_s": int(when.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "is_presigned": authorization is None, "is_published": bool(published), "signature": signature,
        "body_sha256": hashlib.sha256(body).hexdigest(),
    })


def signer(base, service, **extra):
    return type(base.__name__, (base,), {"service": service, "extra": extra})


S3 = signer(S3Header, "s3")
S3_DATED = signer(S3Dated, "s3")
PLAIN = signer(botocore.auth.SigV4Auth, "kms")


def presigner(expires):
    return signer(botocore.auth.S3SigV4QueryAuth, "s3", expires=expires)


def published_s3():
    at = "http://examplebucket.s3.amazonaws.com"
    hashed = ("x-amz-content-sha256", EMPTY)
    sign("s3-get-object", S3, S3_KEYS, S3_TIME, "GET", at + "/test.txt", [("Range", "bytes=0-9"), hashed],
         published="f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
    sign("s3-put-object", S3_DATED, S3_KEYS, S3_TIME, "PUT", at + "/test%24file.text",
         [("Date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")], b"Welcome to Amazon S3.",
         published="98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")
    sign("s3-get-lifecycle", S3, S3_KEYS, S3_TIME, "GET", at + "/?lifecycle", [hashed],
         published="fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
    sign("s3-list", S3, S3_KEYS, S3_TIME, "GET", at + "/?max-keys=2&prefix=J", [hashed],
         published="34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
    sign("s3-presigned", presigner(86400), S3_KEYS, S3_TIME, "GET", "https://examplebucket.s3.amazonaws.com/test.txt",
         published="aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")
    chunked = [("Content-Encoding", "aws-chunked"), ("x-amz-decoded-content-length", "66560"),
               ("x-amz-storage-class", "REDUCED_REDUNDANCY")]
    sign("s3-chunked-seed", S3, S3_KEYS, S3_TIME, "PUT", "http://s3.amazonaws.com/examplebucket/chunkObject.txt",
         chunked + [("Content-Length", "66824"), ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")],
         published="4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9")
    sign("s3-trailer-seed", S3, S3_KEYS, S3_TIME, "PUT", "http://s3.amazonaws.com/examplebucket/chunkObject.txt",
         chunked + [("x-amz-trailer", "x-amz-checksum-crc32c"),
                    ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER")],
         published="106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e")


def suite(name, method, path, signature, headers=(), body=b"", sent_query=None, params=None):
    sign(name, signer(botocore.auth.SigV4Auth, "service"), SUITE_KEYS, SUITE_TIME, method, "http://example.amazonaws.com" + path,
         headers, body, signature, sent_query, params)


def published_suite():
    vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    suite("get-vanilla", "GET", "/", vanilla)
    suite("get-relative", "GET", "/example/..", vanilla)
    suite("get-relative-relative", "GET", "/example1/example2/../..", vanilla)
    suite("get-slash", "GET", "//", vanilla)
    suite("get-slash-dot-slash", "GET", "/./", vanilla)
    suite("get-slash-pointless-dot", "GET", "/./example", "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5")
    suite("get-slashes", "GET", "//example//", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84")
    suite("get-space", "GET", "/example space/", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741")
    suite("get-unreserved", "GET", "/" + unreserved, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f")
    suite("get-utf8", "GET", "/\u1234", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85")
    suite("get-vanilla-empty-query-key", "GET", "/?Param1=value1", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb")
    suite("get-vanilla-query", "GET", "/", vanilla)
    suite("get-vanilla-query-order-key-case", "GET", "/?Param2=value2&Param1=value1",
          "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500")
    suite("get-vanilla-query-unreserved", "GET", f"/?{unreserved}={unreserved}",
          "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197")
    suite("get-vanilla-utf8-query", "GET", "/", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
          sent_query="\u1234=bar", params={"\u1234": "bar"})
    suite("get-header-key-duplicate", "GET", "/", "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
          [("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")])
    suite("get-header-value-order", "GET", "/", "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
          [("My-Header1", "value4"), ("My-Header1", "value1"), ("My-Header1", "value3"), ("My-Header1", "value2")])
    suite("get-header-value-trim", "GET", "/", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
          [("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')])
    suite("post-vanilla", "POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")
    suite("post-vanilla-query", "POST", "/?Param1=value1", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11")
    suite("post-header-key-case", "POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")
    suite("post-header-key-sort", "POST", "/", "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
          [("My-Header1", "value1")])
    suite("post-header-value-case", "POST", "/", "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
          [("My-Header1", "VALUE1")])
    suite("post-x-www-form-urlencoded", "POST", "/", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
          [("Content-Type", "application/x-www-form-urlencoded")], b"Param1=value1")


KEYS = ["plain", "with space", "a+b", "a%2Fb", "100%", "a//b", "/lead", "trail/", "./dot", "a/../b", "..", "~tilde", "star*", "quote'\"",
        "par(en)s", "semi;colon", "a:b@c", "a&b=c", "$,!", "what?", "hash#", "back\\slash", "[brackets]", "{braces}", "pipe|", "^`<>",
        "new\nline", "bell\x07", "nul\x00", "\u00e9", "e\u0301", "\u65e5\u672c\u8a9e", "\U0001f600", "%41", "%", "a=b", "tab\there", ".", "x" * 900]

QUERIES = ["acl", "uploads", "acl=", "list-type=2&prefix=a%2Fb&delimiter=%2F", "b=2&a=1", "a=2&a=1", "B=1&a=1&A=2", "a%20b=1&a=2",
           "prefix=%2B%20%25", "prefix=%C3%A9%F0%9F%98%80", "partNumber=1&uploadId=abc-._~", "a-b=1&a=1&a.b=1&aA=1", "marker=a%26b%3Dc",
           "response-content-disposition=attachment%3B%20filename%3D%22x.txt%22", "start-after=%00%01", "x=%2525", "a=b%3Dc", "k=*'()"]


def nasty():
    at = "http://127.0.0.1:9000/bucket/"
    for i, key in enumerate(KEYS):
        path = urllib.parse.quote(key, safe="/~")
        sign(f"key-{i}", S3, S3_KEYS, S3_TIME, "GET", at + path)
        sign(f"key-{i}-presigned", presigner(60), S3_KEYS, S3_TIME, "GET", at + path)
    for i, query in enumerate(q for q in QUERIES if "*" not in q):
        sign(f"query-{i}", S3, S3_KEYS, S3_TIME, "GET", f"{at}?{query}")
    for i, query in enumerate(q for q in QUERIES if "a=2&a=1" not in q):  # its presigner keeps one of two
        sign(f"query-{i}-presigned", presigner(604800), S3_KEYS, S3_TIME, "GET", f"{at}?{query}")
    sign("headers", S3, S3_KEYS, S3_TIME, "PUT", at + "k", [
        ("x-amz-meta-empty", ""), ("X-Amz-Meta-Spaces", "  a   b  "), ("x-amz-meta-utf8", "\u00e9"), ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="), ("x-amz-acl", "private"), ("x-amz-meta-two", "1"), ("x-amz-meta-two", "2")], b"body")
    sign("presigned-put-with-headers", presigner(300), S3_KEYS, S3_TIME, "PUT", at + "k",
         [("x-amz-server-side-encryption", "aws:kms"), ("Content-Type", "text/plain")])
    for word in ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"):
        sign(f"payload-{word}", S3, S3_KEYS, S3_TIME, "PUT", at + "k", [("x-amz-content-sha256", word)])
    sign("kms-post", PLAIN, S3_KEYS, S3_TIME, "POST", "http://127.0.0.1:9000/", [("X-Amz-Target", "TrentService.Encrypt")], b'{"KeyId":"k"}')
    sign("kms-admin-get", PLAIN, S3_KEYS, S3_TIME, "GET", "http://127.0.0.1:9000/rustfs/admin/v3/kms/keys/a%20b?limit=2&marker=")
    sign("date-header", S3, S3_KEYS, S3_TIME, "GET", at + "k", [("Date", "Fri, 24 May 2013 00:00:00 GMT")])


published_s3()
published_suite()
nasty()
json.dump(cases, sys.stdout, indent=1)
print()
