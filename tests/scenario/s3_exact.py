#!/usr/bin/env python3
"""Single requests, exact to the header: what S3 answers to the rarer ones, and that what is not here does nothing at all."""
import base64
import hashlib
import http.client
import re
import unittest
import urllib.parse
import xml.etree.ElementTree as ElementTree
import zlib

import botocore.session
from botocore.auth import S3SigV4Auth
from hardplate import AWSRequest, Credentials, Daemon

SSE = "x-amz-server-side-encryption"
KEY = b"k" * 32
CUSTOMER = {SSE + "-customer-algorithm": "AES256", SSE + "-customer-key": base64.b64encode(KEY).decode(),
            SSE + "-customer-key-MD5": base64.b64encode(hashlib.md5(KEY).digest()).decode()}


class Signer(S3SigV4Auth):
    """Signs the body's real hash, whatever botocore would rather send."""
    sha256 = None

    def payload(self, request):
        return self.sha256

    def _modify_request_before_signing(self, request):
        super()._modify_request_before_signing(request)
        del request.headers["X-Amz-Content-SHA256"]
        request.headers["X-Amz-Content-SHA256"] = self.sha256


class Answer:
    def __init__(self, response):
        self.status, self.body = response.status, response.read()
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        found = re.search(rb"<Error><Code>(.*?)</Code>", self.body)
        self.code = found[1].decode() if found else None


class Exact(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(backend="local")
        cls.daemon.admin("POST", "kms/keys", {"tags": {"name": "named"}})

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    def setUp(self):
        self.bucket = "exact-" + hashlib.md5(self.id().encode()).hexdigest()[:12]
        self.assertEqual(self.ask("PUT", "").status, 200)

    def ask(self, method, target, body=b"", headers=None, sha256=None):
        """One signed request for /BUCKET + target, or for target itself where it begins with '//'."""
        path = target[1:] if target.startswith("//") else f"/{self.bucket}{target}"
        request = AWSRequest(method, self.daemon.endpoint + path, headers=dict(headers or {}))
        signer = Signer(Credentials(self.daemon.env["HARDPLATE_USER_ACCESS_KEY"], self.daemon.env["HARDPLATE_USER_SECRET_KEY"]), "s3", self.daemon.env["HARDPLATE_REGION"])
        signer.sha256 = sha256 or hashlib.sha256(body).hexdigest()
        signer.add_auth(request)
        connection = http.client.HTTPConnection(self.daemon.listen, timeout=60)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value.encode())
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def refused(self, code, status, method, target, body=b"", headers=None, sha256=None):
        answer = self.ask(method, target, body, headers, sha256)
        self.assertEqual((answer.status, answer.code), (status, None if method == "HEAD" else code), (method, target, headers, answer.body[-300:]))
        return answer

    def text(self, answer, name):
        return [element.text or "" for element in ElementTree.fromstring(answer.body).iter() if element.tag.endswith("}" + name)]

    def upload(self, key, headers=None):
        return self.text(self.ask("POST", f"/{key}?uploads", b"", headers), "UploadId")[0]


class NotHere(Exact):
    """No success that did something else, or nothing."""
    HERE = {"AbortMultipartUpload", "CompleteMultipartUpload", "CreateBucket", "CreateMultipartUpload", "DeleteBucket", "DeleteObject", "DeleteObjects", "GetBucketLocation",
            "GetObject", "HeadBucket", "HeadObject", "ListBuckets", "ListDirectoryBuckets", "ListMultipartUploads", "ListObjects", "ListObjectsV2", "ListParts", "PutObject",
            "UploadPart", "CopyObject", "UploadPartCopy"} # a copy is told by a header alone

    def still_there(self, why):
        self.assertEqual(self.ask("GET", "/kept").body, b"body", why)

    def test_every_other_operation_that_the_sdk_knows_is_501_and_changes_nothing(self):
        model = botocore.session.get_session().get_service_model("s3")
        self.ask("PUT", "/kept", b"body")
        for name in sorted(set(model.operation_names) - self.HERE):
            operation = model.operation_model(name)
            path, _, query = operation.http["requestUri"].partition("?")
            target = "/kept" if "{Key" in path else "" if "{Bucket}" in path else "//" if path == "/" else None
            if target is None: # of another endpoint: WriteGetObjectResponse
                continue
            answer = self.ask(operation.http["method"], target + ("?" + query if query else ""))
            self.assertEqual((answer.status, answer.code), (501, None if operation.http["method"] == "HEAD" else "NotImplemented"), name)
            self.still_there(name)

    def test_a_sub_resource_goes_with_its_own_methods_only(self):
        self.ask("PUT", "/kept", b"body")
        for query, here in (("uploads", {"POST"}), ("uploadId=x", {"GET", "PUT", "POST", "DELETE"}), ("delete", set()), ("location", set())):
            for method in {"GET", "HEAD", "PUT", "DELETE"} - here:
                self.refused("MethodNotAllowed", 405, method, "/kept?" + query)
                self.still_there((method, query))
        self.refused("InvalidArgument", 400, "PUT", "/kept?partNumber=1", b"a part, not the whole")
        self.still_there("a part number alone")
        self.ask("DELETE", "/kept")
        for query, here in (("uploads", {"GET"}), ("delete", set()), ("location", {"GET"})):
            for method in {"GET", "HEAD", "PUT", "DELETE"} - here:
                self.refused("MethodNotAllowed", 405, method, "?" + query)
        self.assertEqual(self.ask("HEAD", "").status, 200)

    def test_headers_that_ask_for_what_is_not_here_store_nothing(self):
        for name, value in (("x-amz-tagging", "a=b"), ("x-amz-acl", "public-read"), ("x-amz-grant-read", "id=x"), ("x-amz-object-lock-mode", "COMPLIANCE"),
                            ("x-amz-object-lock-retain-until-date", "2030-01-01T00:00:00Z"), ("x-amz-object-lock-legal-hold", "ON"), ("x-amz-write-offset-bytes", "3"),
                            ("x-amz-website-redirect-location", "/x"), ("x-amz-storage-class", "GLACIER"), ("x-amz-copy-source", "/a/b"), ("x-amz-checksum-sha512", "AAAA"),
                            ("x-amz-checksum-xxhash64", "AAAA"), ("x-amz-checksum-algorithm", "SHA512"), ("x-amz-sdk-checksum-algorithm", "XXHASH3")):
            self.refused("NotImplemented", 501, "PUT", "/asked", b"x", {name: value})
            self.refused("NotImplemented", 501, "POST", "/asked?uploads", b"", {name: value}) if name != "x-amz-write-offset-bytes" else None
            self.refused("NoSuchKey", 404, "GET", "/asked")
        self.refused("NotImplemented", 501, "PUT", "/asked", b"0\r\nx-amz-checksum-sha512:AAAA\r\n\r\n",
                     {"x-amz-trailer": "x-amz-checksum-sha512", "x-amz-decoded-content-length": "0"}, "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
        for headers in ({"x-amz-bucket-object-lock-enabled": "true"}, {"x-amz-acl": "public-read-write"}, {"x-amz-grant-full-control": "id=x"}):
            self.refused("NotImplemented", 501, "PUT", "//another-bucket", b"", headers)
        for headers in ({"x-amz-acl": "private"}, {"x-amz-acl": "bucket-owner-full-control"}, {"x-amz-storage-class": "STANDARD"}, {"x-amz-tagging": ""}):
            self.assertEqual(self.ask("PUT", "/asked", b"x", headers).status, 200, headers)

    def test_a_deletion_under_a_condition_deletes_nothing(self):
        self.ask("PUT", "/kept", b"body")
        for headers in ({"If-Match": '"other"'}, {"x-amz-if-match-size": "77"}, {"x-amz-if-match-last-modified-time": "Thu, 01 Dec 2000 16:00:00 GMT"}):
            self.refused("NotImplemented", 501, "DELETE", "/kept", b"", headers)
            self.still_there(headers)
        for condition in ("<ETag>other</ETag>", "<Size>77</Size>", "<LastModifiedTime>2000-12-01T16:00:00Z</LastModifiedTime>"):
            self.refused("NotImplemented", 501, "POST", "?delete", f"<Delete><Object><Key>kept</Key>{condition}</Object></Delete>".encode())
            self.still_there(condition)

    def test_an_expected_owner_is_compared(self):
        self.refused("AccessDenied", 403, "PUT", "/owned", b"x", {"x-amz-expected-bucket-owner": "111122223333"})
        self.refused("AccessDenied", 403, "DELETE", "", b"", {"x-amz-expected-bucket-owner": "111122223333"})
        owner = self.text(self.ask("GET", "//"), "ID")[0]
        for said in (owner, ""):
            self.assertEqual(self.ask("PUT", "/owned", b"x", {"x-amz-expected-bucket-owner": said}).status, 200, said)


class Buckets(Exact):
    def test_names_of_forms_that_s3_keeps_are_refused(self):
        for name in ("xn--abc", "sthree-abc", "amzn-s3-demo-bucket", "abc-s3alias", "abc--ol-s3", "abc--x-s3", "abc--table-s3", "abc.mrap"):
            self.refused("InvalidBucketName", 400, "PUT", "//" + name)
            self.refused("NoSuchBucket", 404, "GET", "//" + name)
        for name in ("xn-abc", "sthree", "abc-s3", "mrap", "ol-s3"):
            self.assertEqual(self.ask("PUT", "//" + name).status, 200, name)

    def test_a_configuration_is_done_or_refused(self):
        region = self.daemon.env["HARDPLATE_REGION"]
        def body(inner):
            return f'<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</CreateBucketConfiguration>'.encode()
        self.refused("IllegalLocationConstraintException", 400, "PUT", "//configured", body("<LocationConstraint>eu-central-77</LocationConstraint>"))
        for inner in ("<Tags><Tag><Key>a</Key><Value>b</Value></Tag></Tags>", "<Location><Type>AvailabilityZone</Type></Location>"):
            self.refused("NotImplemented", 501, "PUT", "//configured", body(inner))
        self.refused("MalformedXML", 400, "PUT", "//configured", b"<CreateBucketConfiguration>")
        self.refused("NoSuchBucket", 404, "GET", "//configured")
        for number, inner in enumerate(("", "\n  ", f"<LocationConstraint>{region}</LocationConstraint>", f"\n  <LocationConstraint>{region}</LocationConstraint>\n")):
            self.assertEqual(self.ask("PUT", f"//configured-{number}", body(inner)).status, 200, inner)

    def test_the_list_has_a_prefix_and_pages(self):
        names = [f"paged-{i}" for i in range(5)]
        for name in names:
            self.ask("PUT", "//" + name)
        for size in (1, 2, 5, 10000):
            found, token = [], ""
            while token is not None:
                page = self.ask("GET", f"//?prefix=paged-&max-buckets={size}{token}")
                found += self.text(page, "Name")
                self.assertLessEqual(len(self.text(page, "Name")), size)
                token = "".join("&continuation-token=" + urllib.parse.quote(t, safe="") for t in self.text(page, "ContinuationToken")) or None
            self.assertEqual(found, names, size)
        whole = self.text(self.ask("GET", "//"), "Name")
        self.assertTrue({*names, self.bucket} <= set(whole))
        self.assertEqual(self.text(self.ask("GET", "//?bucket-region=" + self.daemon.env["HARDPLATE_REGION"]), "Name"), whole)
        self.assertEqual(self.text(self.ask("GET", "//?bucket-region=eu-central-77"), "Name"), [])
        for size in ("0", "10001", "x"):
            self.refused("InvalidArgument", 400, "GET", "//?max-buckets=" + size)


class Objects(Exact):
    def test_how_a_body_travelled_is_not_how_it_is_encoded(self):
        for sent, kept in (("aws-chunked", None), ("gzip", "gzip"), ("gzip,aws-chunked", "gzip"), ("aws-chunked, gzip", "gzip"), ("aws-chunked,gzip", "gzip"),
                           ("gzip , AWS-Chunked, br", "gzip,br"), ("gzip, br", "gzip, br"), ("gzip ,br", "gzip ,br")):
            body = b"4\r\nbody\r\n0\r\n\r\n"
            answer = self.ask("PUT", "/encoded", body, {"Content-Encoding": sent, "x-amz-decoded-content-length": "4"}, "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
            self.assertEqual(answer.status, 200, (sent, answer.body))
            answer = self.ask("GET", "/encoded")
            self.assertEqual((answer.headers.get("content-encoding"), answer.body), (kept, b"body"), sent)

    def test_an_empty_header_says_nothing_of_an_object(self):
        self.ask("PUT", "/plain", b"x")
        names = ("Content-Type", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Expires")
        self.assertEqual(self.ask("PUT", "/empty", b"x", {**{name: "" for name in names}, "x-amz-meta-a": ""}).status, 200)
        plain, empty = (self.ask("HEAD", target).headers for target in ("/plain", "/empty"))
        self.assertEqual(empty.pop("x-amz-meta-a"), "")
        self.assertEqual((sorted(empty), empty["content-type"]), (sorted(plain), "binary/octet-stream"))

    def test_user_metadata_is_limited_as_a_whole(self):
        for name, value in (("n" * 2048, ""), ("n" * 300, "v" * 1748), ("n", "v" * 2047)):
            self.assertEqual(self.ask("PUT", "/described", b"x", {f"x-amz-meta-{name}": value}).status, 200, len(name))
            self.assertEqual(self.ask("HEAD", "/described").headers.get(f"x-amz-meta-{name}"), value, len(name))
            for longer in ((name + "n", value), (name, value + "v"), (name + "n" * 5000, value)):
                self.refused("MetadataTooLarge", 400, "PUT", "/described", b"x", {f"x-amz-meta-{longer[0]}": longer[1]})
                self.refused("MetadataTooLarge", 400, "POST", "/described?uploads", b"", {f"x-amz-meta-{longer[0]}": longer[1]})


class Reads(Exact):
    def setUp(self):
        super().setUp()
        self.body = bytes(range(10))
        self.ask("PUT", "/object", self.body, {"Cache-Control": "no-cache", "Expires": "Thu, 01 Dec 2033 16:00:00 GMT", "Content-Type": "text/x", "x-amz-meta-a": "b"})
        head = self.ask("HEAD", "/object").headers
        self.etag, self.modified = head["etag"], head["last-modified"]

    def test_numbers_of_a_range_may_be_of_any_length(self):
        for asked, told in (("0-18446744073709551616", "0-9"), ("3-" + "9" * 60, "3-9"), ("-18446744073709551617", "0-9"), ("00000000000000000000000001-2", "1-2")):
            for method in ("GET", "HEAD"):
                answer = self.ask(method, "/object", b"", {"Range": "bytes=" + asked})
                self.assertEqual((answer.status, answer.headers.get("content-range")), (206, f"bytes {told}/10"), asked)

    def test_a_range_that_cannot_be_is_told_the_size(self):
        for asked in ("10-", "18446744073709551616-", "18446744073709551615-18446744073709551616", "-0"):
            answer = self.refused("InvalidRange", 416, "GET", "/object", b"", {"Range": "bytes=" + asked})
            self.assertEqual(answer.headers.get("content-range"), "bytes */10", asked)
        self.ask("PUT", "/empty")
        self.assertEqual(self.refused("InvalidRange", 416, "GET", "/empty", b"", {"Range": "bytes=0-18446744073709551616"}).headers.get("content-range"), "bytes */0")

    def test_a_range_is_for_the_object_that_if_range_names(self):
        for held, status in ((self.etag, 206), (self.modified, 206), ('"another"', 200), ("W/" + self.etag, 200), ("Thu, 01 Dec 2033 16:00:00 GMT", 200), ("rubbish", 200)):
            answer = self.ask("GET", "/object", b"", {"Range": "bytes=2-3", "If-Range": held})
            self.assertEqual((answer.status, answer.body), (status, self.body[2:4] if status == 206 else self.body), held)
        self.assertEqual(self.ask("GET", "/object", b"", {"Range": "bytes=10-", "If-Range": '"another"'}).status, 200)

    def test_not_modified_tells_what_a_cache_keeps(self):
        for method in ("GET", "HEAD"):
            answer = self.ask(method, "/object?response-cache-control=private", b"", {"If-None-Match": self.etag})
            told = [answer.headers.get(name) for name in ("etag", "last-modified", "cache-control", "expires", "content-type", "x-amz-meta-a")]
            self.assertEqual((answer.status, answer.body, told), (304, b"", [self.etag, self.modified, "private", "Thu, 01 Dec 2033 16:00:00 GMT", None, None]))

    def test_a_part_is_a_range_and_only_uploads_in_parts_have_a_count(self):
        upload = self.upload("parts")
        etags = [self.ask("PUT", f"/parts?partNumber={n}&uploadId={upload}", part).headers["etag"] for n, part in ((2, bytes(5 << 20)), (5, b"end"))]
        rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in zip((2, 5), etags))
        self.assertEqual(self.ask("POST", f"/parts?uploadId={upload}", f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()).status, 200)
        for method in ("GET", "HEAD"):
            for target, told, count in (("/object?partNumber=1", "bytes 0-9/10", None), ("/parts?partNumber=2", f"bytes 0-{(5 << 20) - 1}/{(5 << 20) + 3}", "2"),
                                        ("/parts?partNumber=5", f"bytes {5 << 20}-{(5 << 20) + 2}/{(5 << 20) + 3}", "2")):
                answer = self.ask(method, target)
                self.assertEqual((answer.status, answer.headers.get("content-range"), answer.headers.get("x-amz-mp-parts-count")), (206, told, count), target)
            for target in ("/object?partNumber=2", "/parts?partNumber=1", "/parts?partNumber=10000"):
                self.refused("InvalidPartNumber", 416, method, target)
        self.ask("PUT", "/empty")
        self.assertEqual(self.ask("GET", "/empty?partNumber=1").status, 200)


class Bodies(Exact):
    def test_a_list_of_deletions_names_one_key_an_object(self):
        self.ask("PUT", "/a", b"x")
        for objects in ("<Object><Key>a</Key><Key>b</Key></Object>", "<Object></Object>", "<Object><Key></Key></Object>", "<Object><Key></Key><Key>a</Key></Object>",
                        "<Object><Key>a</Key><Key></Key></Object>", "", "<Object><Key>a</Key></Object>" * 1001):
            self.refused("MalformedXML", 400, "POST", "?delete", f"<Delete>{objects}</Delete>".encode())
        self.assertEqual(self.ask("GET", "/a").body, b"x")

    def test_a_list_of_deletions_may_have_a_thousand_of_the_longest_keys(self):
        self.ask("PUT", "/" + "%22" * 1024, b"x")
        keys = ["&quot;" * 1024] + ["&quot;" * 1020 + f"{i:04}" for i in range(999)]
        body = ("<Delete><Quiet>true</Quiet>" + "".join(f"<Object><Key>{key}</Key></Object>" for key in keys) + "</Delete>").encode()
        answer = self.ask("POST", "?delete", body)
        self.assertEqual((answer.status, self.text(answer, "Error")), (200, []), answer.body[:300])
        self.refused("NoSuchKey", 404, "GET", "/" + "%22" * 1024)

    def test_a_completion_tells_where_the_object_is(self):
        upload = self.upload("told%20%26here")
        etag = self.ask("PUT", f"/told%20%26here?partNumber=1&uploadId={upload}", b"x").headers["etag"]
        answer = self.ask("POST", f"/told%20%26here?uploadId={upload}",
                          f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>".encode())
        self.assertEqual((self.text(answer, "Location"), self.text(answer, "Key")), ([f"{self.daemon.endpoint}/{self.bucket}/told%20%26here"], ["told &here"]))

    def test_a_completion_may_name_ten_thousand_parts_with_checksums(self):
        upload = self.upload("many", {"x-amz-checksum-algorithm": "SHA256"})
        etag = self.ask("PUT", f"/many?partNumber=1&uploadId={upload}", b"only").headers["etag"]
        part = f"<ETag>&quot;{etag[1:-1]}&quot;</ETag><ChecksumSHA256>{base64.b64encode(hashlib.sha256(b'only').digest()).decode()}</ChecksumSHA256>"
        body = "<CompleteMultipartUpload>" + "".join(f"<Part>{part}<PartNumber>{i + 1}</PartNumber></Part>" for i in range(10000)) + "</CompleteMultipartUpload>"
        self.refused("EntityTooSmall", 400, "POST", f"/many?uploadId={upload}", body.encode()) # so it was read to its end

    def test_a_completions_checksums_are_compared_or_refused(self):
        def crc(*parts):
            return base64.b64encode(zlib.crc32(b"".join(parts)).to_bytes(4, "big")).decode()

        bodies = [bytes(5 << 20), b"the end"]
        composite = crc(*(zlib.crc32(body).to_bytes(4, "big") for body in bodies))
        for create, right, wrong in (({}, [{"x-amz-checksum-crc32": composite}, {"x-amz-checksum-crc32": composite + "-2"},
                                           {"x-amz-checksum-crc32": composite, "x-amz-checksum-type": "COMPOSITE"}],
                                      [("BadDigest", {"x-amz-checksum-crc32": crc(*bodies)}), ("BadDigest", {"x-amz-checksum-crc32": composite + "-3"}),
                                       ("InvalidRequest", {"x-amz-checksum-crc32": crc(*bodies), "x-amz-checksum-type": "FULL_OBJECT"}),
                                       ("InvalidRequest", {"x-amz-checksum-crc32": composite, "x-amz-checksum-type": "OTHER"})]),
                                     ({"x-amz-checksum-type": "FULL_OBJECT"}, [{"x-amz-checksum-crc32": crc(*bodies)}],
                                      [("BadDigest", {"x-amz-checksum-crc32": composite}),
                                       ("InvalidRequest", {"x-amz-checksum-crc32": composite, "x-amz-checksum-type": "COMPOSITE"})])):
            for headers in right:
                upload = self.upload("summed", {"x-amz-checksum-algorithm": "CRC32", **create})
                etags = [self.ask("PUT", f"/summed?partNumber={n + 1}&uploadId={upload}", body).headers["etag"] for n, body in enumerate(bodies)]
                rows = [f"<Part><PartNumber>{n + 1}</PartNumber><ETag>{etag}</ETag><ChecksumCRC32>{crc(body)}</ChecksumCRC32>{{}}</Part>" for n, (etag, body) in enumerate(zip(etags, bodies))]
                body = f"<CompleteMultipartUpload>{''.join(rows)}</CompleteMultipartUpload>"
                for code, more in wrong:
                    self.refused(code, 400, "POST", f"/summed?uploadId={upload}", body.format("", "").encode(), more)
                self.refused("InvalidPart", 400, "POST", f"/summed?uploadId={upload}", body.format("<ChecksumSHA1>AAAAAAAAAAAAAAAAAAAAAAAAAAA=</ChecksumSHA1>", "").encode())
                self.refused("NotImplemented", 501, "POST", f"/summed?uploadId={upload}", body.format("", "<ChecksumXXHASH64>AAAA</ChecksumXXHASH64>").encode())
                answer = self.ask("POST", f"/summed?uploadId={upload}", body.format("", "").encode(), headers)
                self.assertEqual(answer.status, 200, (headers, answer.body))


class Encryption(Exact):
    MODES = {"plain": {}, "sse-s3": {SSE: "AES256"}, "sse-kms": {SSE: "aws:kms", SSE + "-aws-kms-key-id": "named"}, "sse-c": CUSTOMER}

    def test_a_part_and_a_completion_ask_for_their_uploads_encryption_or_for_none(self):
        other_key = {SSE: "aws:kms", SSE + "-aws-kms-key-id": "hardplate-dev"}
        for name, headers in self.MODES.items():
            upload = self.upload("parts", headers)
            part, whole = f"/parts?partNumber=1&uploadId={upload}", f"/parts?uploadId={upload}"
            body = "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>"
            fitting = [headers] if name == "sse-c" else [{}, headers]
            for asked in list(self.MODES.values()) + [other_key]:
                if asked not in fitting:
                    self.refused("InvalidRequest", 400, "PUT", part, b"x", asked)
            self.assertEqual(self.text(self.ask("GET", whole), "PartNumber"), [], name)
            for asked in fitting:
                answer = self.ask("PUT", part, b"x", asked)
                self.assertEqual(answer.status, 200, (name, answer.body))
            body = body.format(answer.headers["etag"]).encode()
            for asked in list(self.MODES.values()) + [other_key]:
                if asked and asked != headers:
                    self.refused("InvalidRequest", 400, "POST", whole, body, asked)
            self.assertEqual(self.ask("POST", whole, body, headers).status, 200, name)
            self.assertEqual(self.ask("GET", "/parts", b"", headers if name == "sse-c" else {}).body, b"x", name)

    def test_a_read_asks_for_no_encryption(self):
        for name, headers in self.MODES.items():
            self.ask("PUT", "/read", b"x", headers)
            for method in ("GET", "HEAD"):
                for asked in ({SSE: "AES256"}, {SSE: "aws:kms"}, {**CUSTOMER, SSE: "AES256"}):
                    self.refused("InvalidArgument", 400, method, "/read", b"", asked)


class Listings(Exact):
    def test_uploads_page_by_groups_that_come_once(self):
        keys = ["a", "a", "a/1", "a/2", "a/2", "b", "c/1", "c/2", "d"]
        for key in keys:
            self.upload(key)
        for size in (1, 2, 3, 5, 1000):
            rows, groups, marker, is_more = [], [], "", True
            while is_more:
                page = self.ask("GET", f"?uploads=&delimiter=%2F&max-uploads={size}{marker}")
                prefixes = [p for p in self.text(page, "Prefix") if p]
                self.assertLessEqual(len(self.text(page, "Key") + prefixes), size)
                rows, groups = rows + self.text(page, "Key"), groups + prefixes
                is_more = self.text(page, "IsTruncated") == ["true"]
                marker = is_more and "&key-marker={}&upload-id-marker={}".format(*(urllib.parse.quote(self.text(page, n)[0], safe="") for n in ("NextKeyMarker", "NextUploadIdMarker")))
            self.assertEqual((rows, groups), (["a", "a", "b", "d"], ["a/", "c/"]), size)

    def test_an_empty_continuation_token_is_the_beginning(self):
        for key in "abc":
            self.ask("PUT", "/" + key)
        for query, keys in (("", ["a", "b", "c"]), ("&start-after=a", ["b", "c"])):
            answer = self.ask("GET", "?list-type=2&continuation-token=" + query)
            self.assertEqual((answer.status, self.text(answer, "Key"), self.text(answer, "ContinuationToken")), (200, keys, [""]))

    def test_uploads_and_parts_tell_their_owner(self):
        upload, owner = self.upload("owned"), self.text(self.ask("GET", "//"), "ID")
        for target in ("?uploads", f"/owned?uploadId={upload}"):
            answer = self.ask("GET", target)
            self.assertEqual((len(self.text(answer, "Initiator")), len(self.text(answer, "Owner")), self.text(answer, "ID")), (1, 1, owner * 2), target)

    def test_more_than_a_page_may_be_asked_for(self):
        upload = self.upload("parts")
        self.ask("PUT", "/key", b"x")
        for target, element in (("?max-keys=", "MaxKeys"), ("?list-type=2&max-keys=", "MaxKeys"), ("?uploads=&max-uploads=", "MaxUploads"), (f"/parts?uploadId={upload}&max-parts=", "MaxParts")):
            for asked in ("1000", "1001", "2147483647"):
                answer = self.ask("GET", target + asked)
                self.assertEqual((answer.status, self.text(answer, element)), (200, ["1000"]), target + asked)
            for asked in ("2147483648", "-1", "x", "1.5"):
                self.refused("InvalidArgument", 400, "GET", target + asked)

    def test_every_answer_is_xml_whatever_the_keys_and_the_query_hold(self):
        for key in ("%01", "a%EF%BF%BEb", "a%EF%BF%BFb", "%7F", "%C2%85", "a%0Db", "%E2%80%A8"):
            self.assertEqual(self.ask("PUT", "/" + key, b"x").status, 200, key)
        keys = [urllib.parse.unquote(key) for key in self.text(self.ask("GET", "?list-type=2&encoding-type=url"), "Key")]
        self.assertEqual(keys, ["\x01", "a\rb", "a\ufffeb", "a\uffffb", "\x7f", "\x85", "\u2028"])
        self.assertEqual(self.text(self.ask("GET", "?list-type=2"), "Key"), ["\ufffd", "a\rb", "a\ufffdb", "a\ufffdb", "\x7f", "\x85", "\u2028"])
        for name in ("prefix", "delimiter", "marker", "start-after"):
            self.refused("InvalidArgument", 400, "GET", f"?{name}=%FF")
            self.refused("InvalidArgument", 400, "GET", f"?uploads=&{name}=%ED%A0%80")

    def test_no_bucket_is_named_by_nothing(self):
        for target in ("///", "///key", "///?list-type=2"):
            self.refused("InvalidBucketName", 400, "GET", target)


if __name__ == "__main__":
    unittest.main(verbosity=2)
