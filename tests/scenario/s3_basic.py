#!/usr/bin/env python3
"""Buckets and objects from outside, by boto3: plain, SSE-S3, SSE-KMS and SSE-C alike."""
import base64
import concurrent.futures
import hashlib
import http.client
import os
import unittest
import urllib.error
import urllib.request
import zlib

from botocore.exceptions import ClientError
from hardplate import Daemon

KEY = b"k" * 32
SSE = {
    "plain": {},
    "sse-s3": {"ServerSideEncryption": "AES256"},
    "sse-kms": {"ServerSideEncryption": "aws:kms"},
    "sse-kms-key": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "named"},
    "sse-c": {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": KEY},
}


def customer(name):
    return SSE[name] if name == "sse-c" else {}


class S3(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()
        cls.s3 = cls.daemon.s3()
        cls.daemon.admin("POST", "kms/keys", {"tags": {"name": "named"}})
        cls.s3.create_bucket(Bucket="main-bucket")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    def refused(self, code, status, call, **arguments):
        with self.assertRaises(ClientError) as caught:
            call(**arguments)
        error = caught.exception.response
        self.assertEqual((error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]), (code, status), error["Error"].get("Message"))

    def get(self, key, sse="plain", **more):
        return self.s3.get_object(Bucket="main-bucket", Key=key, **customer(sse), **more)

    def check_headers(self, name, answer):
        self.assertEqual(answer.get("ServerSideEncryption"), {"sse-s3": "AES256", "sse-kms": "aws:kms", "sse-kms-key": "aws:kms"}.get(name), name)
        self.assertEqual(answer.get("SSEKMSKeyId"), {"sse-s3": "hardplate-dev", "sse-kms": "hardplate-dev", "sse-kms-key": "named"}.get(name), name)
        self.assertEqual(answer.get("SSECustomerAlgorithm"), "AES256" if name == "sse-c" else None, name)

    def test_every_size_comes_back_in_every_mode(self):
        for name, sse in SSE.items():
            for size in (0, 1, 15, 16, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 7):
                body = os.urandom(size)
                put = self.s3.put_object(Bucket="main-bucket", Key=f"{name}/{size}", Body=body, Metadata={"a": "b", "ue": "x y"}, ContentType="text/x", **sse)
                self.check_headers(name, put)
                got = self.get(f"{name}/{size}", name)
                self.check_headers(name, got)
                self.assertEqual(got["Body"].read(), body, (name, size))
                self.assertEqual((got["ContentLength"], got["ContentType"], got["Metadata"], got["ETag"]), (size, "text/x", {"a": "b", "ue": "x y"}, put["ETag"]))
                head = self.s3.head_object(Bucket="main-bucket", Key=f"{name}/{size}", **customer(name))
                self.check_headers(name, head)
                self.assertEqual((head["ContentLength"], head["ETag"]), (size, put["ETag"]))
                is_md5 = put["ETag"].strip('"') == hashlib.md5(body).hexdigest()
                self.assertEqual(is_md5, name in ("plain", "sse-s3"), name)

    def test_ranges_give_exactly_the_slice(self):
        body = os.urandom(300_000)
        for name, sse in SSE.items():
            self.s3.put_object(Bucket="main-bucket", Key=f"range/{name}", Body=body, **sse)
            for text, want in (("bytes=0-0", body[:1]), ("bytes=0-65535", body[:65536]), ("bytes=65535-65536", body[65535:65537]), ("bytes=65536-131071", body[65536:131072]),
                               ("bytes=1000-", body[1000:]), ("bytes=-1", body[-1:]), ("bytes=-70000", body[-70000:]), ("bytes=299999-400000", body[299999:]), ("bytes=-999999", body)):
                got = self.get(f"range/{name}", name, Range=text)
                self.assertEqual(got["ResponseMetadata"]["HTTPStatusCode"], 206)
                self.assertEqual(got["Body"].read(), want, (name, text))
            self.refused("InvalidRange", 416, self.get, key=f"range/{name}", sse=name, Range="bytes=300000-")
            self.assertEqual(len(self.get(f"range/{name}", name, Range="bytes=9-3")["Body"].read()), 300_000)
        self.s3.put_object(Bucket="main-bucket", Key="range/empty", Body=b"", **SSE["sse-kms"])
        self.refused("InvalidRange", 416, self.get, key="range/empty", Range="bytes=0-0")

    def test_parts_become_an_object_in_every_mode(self):
        parts = [os.urandom(5 << 20), os.urandom((5 << 20) + 12345), os.urandom(77)]
        for name, sse in SSE.items():
            key = f"parts/{name}"
            upload = self.s3.create_multipart_upload(Bucket="main-bucket", Key=key, Metadata={"m": "1"}, **sse)
            self.check_headers(name, upload)
            done = []
            for i, part in enumerate([b"replaced", *parts]):
                number = max(i, 1)
                answer = self.s3.upload_part(Bucket="main-bucket", Key=key, UploadId=upload["UploadId"], PartNumber=number, Body=part, **customer(name))
                self.check_headers(name, answer)
                done = [p for p in done if p["PartNumber"] != number] + [{"PartNumber": number, "ETag": answer["ETag"]}]
            listed = self.s3.list_parts(Bucket="main-bucket", Key=key, UploadId=upload["UploadId"])
            self.assertEqual([(p["PartNumber"], p["Size"], p["ETag"]) for p in listed["Parts"]], [(d["PartNumber"], len(parts[i]), d["ETag"]) for i, d in enumerate(done)])
            self.assertIn(key, [u["Key"] for u in self.s3.list_multipart_uploads(Bucket="main-bucket")["Uploads"]])
            complete = self.s3.complete_multipart_upload(Bucket="main-bucket", Key=key, UploadId=upload["UploadId"], MultipartUpload={"Parts": done})
            self.assertTrue(complete["ETag"].strip('"').endswith("-3"))
            if name in ("plain", "sse-s3"):
                self.assertEqual(complete["ETag"].strip('"'), hashlib.md5(b"".join(hashlib.md5(p).digest() for p in parts)).hexdigest() + "-3")
            whole = b"".join(parts)
            got = self.get(key, name)
            self.check_headers(name, got)
            self.assertEqual((got["Body"].read() == whole, got["Metadata"]), (True, {"m": "1"}))
            for start, end in ((0, 9), ((5 << 20) - 5, (5 << 20) + 5), ((10 << 20) + 12340, (10 << 20) + 12400), (len(whole) - 10, len(whole) - 1)):
                self.assertEqual(self.get(key, name, Range=f"bytes={start}-{end}")["Body"].read(), whole[start:end + 1], (name, start))
            second = self.s3.get_object(Bucket="main-bucket", Key=key, PartNumber=2, **customer(name))
            self.assertEqual((second["Body"].read() == parts[1], second["PartsCount"]), (True, 3))
            self.refused("NoSuchUpload", 404, self.s3.complete_multipart_upload, Bucket="main-bucket", Key=key, UploadId=upload["UploadId"], MultipartUpload={"Parts": done})

    def test_completions_that_are_wrong_are_refused_by_name(self):
        upload = self.s3.create_multipart_upload(Bucket="main-bucket", Key="bad", **SSE["sse-kms"])["UploadId"]
        name = {"Bucket": "main-bucket", "Key": "bad", "UploadId": upload}
        etags = [self.s3.upload_part(PartNumber=i, Body=b"small", **name)["ETag"] for i in (1, 2)]
        complete = self.s3.complete_multipart_upload
        self.refused("InvalidPart", 400, complete, MultipartUpload={"Parts": [{"PartNumber": 3, "ETag": etags[0]}]}, **name)
        self.refused("InvalidPart", 400, complete, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etags[1]}]}, **name)
        self.refused("InvalidPartOrder", 400, complete, MultipartUpload={"Parts": [{"PartNumber": 2, "ETag": etags[1]}, {"PartNumber": 1, "ETag": etags[0]}]}, **name)
        self.refused("EntityTooSmall", 400, complete, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etags[0]}, {"PartNumber": 2, "ETag": etags[1]}]}, **name)
        self.refused("NoSuchUpload", 404, self.s3.upload_part, Bucket="main-bucket", Key="other", UploadId=upload, PartNumber=1, Body=b"x")
        self.refused("NoSuchKey", 404, self.get, key="bad")
        self.s3.abort_multipart_upload(**name)
        self.refused("NoSuchUpload", 404, self.s3.list_parts, **name)
        self.refused("NoSuchUpload", 404, self.s3.abort_multipart_upload, **name)

    def test_listings_page_group_and_encode(self):
        self.s3.create_bucket(Bucket="listing-bucket")
        keys = sorted(["a", "a/b", "a/c/d", "b", "b//x", "c d", "ü/ö", "z<&>\"'", "../up", "e\u00e9", "日本/語"] + [f"n/{i:03}" for i in range(25)], key=lambda k: k.encode())
        for key in keys:
            self.s3.put_object(Bucket="listing-bucket", Key=key, Body=key.encode(), **SSE["sse-kms"])
        for size in (1, 3, 7, 1000):
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="listing-bucket", PaginationConfig={"PageSize": size})
            rows = [row for page in pages for row in page.get("Contents", [])]
            self.assertEqual([row["Key"] for row in rows], keys, size)
            self.assertEqual([row["Size"] for row in rows], [len(k.encode()) for k in keys])
            groups, plain = [], []
            for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket="listing-bucket", Delimiter="/", PaginationConfig={"PageSize": size}):
                groups += [p["Prefix"] for p in page.get("CommonPrefixes", [])]
                plain += [row["Key"] for row in page.get("Contents", [])]
            self.assertEqual(groups, sorted({k.split("/")[0] + "/" for k in keys if "/" in k}, key=lambda k: k.encode()), size)
            self.assertEqual(plain, [k for k in keys if "/" not in k])
            old = [row["Key"] for page in self.s3.get_paginator("list_objects").paginate(Bucket="listing-bucket", Delimiter="/", PaginationConfig={"PageSize": size})
                   for row in page.get("Contents", [])]
            self.assertEqual(old, plain, size)
        self.assertEqual([row["Key"] for row in self.s3.list_objects_v2(Bucket="listing-bucket", Prefix="n/01")["Contents"]], [f"n/01{i}" for i in range(10)])
        self.assertEqual(self.s3.list_objects_v2(Bucket="listing-bucket", StartAfter="n/023")["Contents"][0]["Key"], "n/024")
        self.assertEqual(self.s3.list_objects_v2(Bucket="listing-bucket", MaxKeys=0)["KeyCount"], 0)
        etag = self.s3.head_object(Bucket="listing-bucket", Key="a")["ETag"]
        self.assertEqual(self.s3.list_objects_v2(Bucket="listing-bucket", Prefix="a", MaxKeys=1)["Contents"][0]["ETag"], etag)
        self.refused("BucketNotEmpty", 409, self.s3.delete_bucket, Bucket="listing-bucket")
        gone = self.s3.delete_objects(Bucket="listing-bucket", Delete={"Objects": [{"Key": k} for k in keys + ["never was"]]})
        self.assertEqual(len(gone["Deleted"]), len(keys) + 1)
        self.s3.delete_bucket(Bucket="listing-bucket")
        self.refused("NoSuchBucket", 404, self.s3.list_objects_v2, Bucket="listing-bucket")

    def test_buckets(self):
        self.s3.create_bucket(Bucket="other-bucket")
        self.refused("BucketAlreadyOwnedByYou", 409, self.s3.create_bucket, Bucket="other-bucket")
        self.s3.head_bucket(Bucket="other-bucket")
        self.assertIn("other-bucket", [b["Name"] for b in self.s3.list_buckets()["Buckets"]])
        self.assertIn("LocationConstraint", self.s3.get_bucket_location(Bucket="other-bucket"))
        self.s3.delete_bucket(Bucket="other-bucket")
        self.refused("404", 404, self.s3.head_bucket, Bucket="other-bucket")
        for name in ("rustfs", "minio", "hardplate"):
            self.refused("InvalidBucketName", 400, self.s3.create_bucket, Bucket=name)
        self.refused("NoSuchBucket", 404, self.s3.put_object, Bucket="nothing-here", Key="k", Body=b"x")
        self.refused("NoSuchBucket", 404, self.s3.get_object, Bucket="nothing-here", Key="k")

    def test_customer_keys_are_checked_before_anything_is_done(self):
        body = os.urandom(100_000)
        self.s3.put_object(Bucket="main-bucket", Key="c", Body=body, **SSE["sse-c"])
        wrong = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"w" * 32}
        self.refused("AccessDenied", 403, self.get, key="c", **wrong)
        self.refused("InvalidRequest", 400, self.get, key="c")
        mismatch = {"x-amz-server-side-encryption-customer-algorithm": "AES256", "x-amz-server-side-encryption-customer-key": base64.b64encode(KEY).decode(),
                    "x-amz-server-side-encryption-customer-key-MD5": base64.b64encode(b"m" * 16).decode()}
        def add(params, **_):
            params["headers"].update(mismatch)
        s3 = self.daemon.s3()
        s3.meta.events.register("before-call.s3.PutObject", add)
        self.refused("AccessDenied", 400, s3.put_object, Bucket="main-bucket", Key="mismatch", Body=b"x")
        self.refused("NoSuchKey", 404, self.get, key="mismatch")
        self.s3.put_object(Bucket="main-bucket", Key="p", Body=b"x")
        self.refused("InvalidRequest", 400, self.get, key="p", **SSE["sse-c"])
        upload = self.s3.create_multipart_upload(Bucket="main-bucket", Key="cm", **SSE["sse-c"])["UploadId"]
        self.refused("AccessDenied", 403, self.s3.upload_part, Bucket="main-bucket", Key="cm", UploadId=upload, PartNumber=1, Body=b"x", **wrong)
        self.refused("InvalidRequest", 400, self.s3.upload_part, Bucket="main-bucket", Key="cm", UploadId=upload, PartNumber=1, Body=b"x")

    def test_wrong_encryption_headers_store_nothing(self):
        for sse, code, status in (({"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "nobody"}, "NotFound", 404), ({"ServerSideEncryption": "DES"}, "InvalidEncryptionAlgorithmError", 400),
                                  ({"ServerSideEncryption": "AES256", "SSEKMSKeyId": "named"}, "InvalidArgument", 400)):
            self.refused(code, status, self.s3.put_object, Bucket="main-bucket", Key="nothing", Body=b"secret", **sse)
            self.refused(code, status, self.s3.create_multipart_upload, Bucket="main-bucket", Key="nothing", **sse)
            self.refused("NoSuchKey", 404, self.get, key="nothing")
        dsse = self.s3.put_object(Bucket="main-bucket", Key="dsse", Body=b"x", ServerSideEncryption="aws:kms:dsse")
        self.assertEqual(dsse["ServerSideEncryption"], "aws:kms")
        context = base64.b64encode(b'{"project":"demo","bucket":"forged"}').decode()
        self.s3.put_object(Bucket="main-bucket", Key="context", Body=b"bound", ServerSideEncryption="aws:kms", SSEKMSEncryptionContext=context)
        self.assertEqual(self.get("context")["Body"].read(), b"bound")

    def test_while_the_kms_is_stopped(self):
        self.s3.put_object(Bucket="main-bucket", Key="before", Body=b"sealed", **SSE["sse-kms"])
        self.s3.put_object(Bucket="main-bucket", Key="before-c", Body=b"customer", **SSE["sse-c"])
        self.daemon.admin("POST", "kms/stop")
        try:
            for name in ("sse-s3", "sse-kms", "sse-kms-key"):
                self.refused("InternalError", 500, self.s3.put_object, Bucket="main-bucket", Key="while", Body=b"x", **SSE[name])
            self.refused("InternalError", 500, self.get, key="before")
            self.assertEqual(self.get("before-c", "sse-c")["Body"].read(), b"customer")
            self.s3.put_object(Bucket="main-bucket", Key="while-c", Body=b"customer", **SSE["sse-c"])
            self.s3.put_object(Bucket="main-bucket", Key="while-plain", Body=b"plain")
            self.assertEqual(self.get("while-plain")["Body"].read(), b"plain")
            self.refused("NoSuchKey", 404, self.get, key="while")
            self.assertIn("before", [row["Key"] for row in self.s3.list_objects_v2(Bucket="main-bucket", Prefix="before")["Contents"]])
        finally:
            self.daemon.admin("POST", "kms/start")
        self.assertEqual(self.get("before")["Body"].read(), b"sealed")

    def test_checksums_are_verified_and_given_back(self):
        for algorithm in ("CRC32", "SHA1", "SHA256"):
            put = self.s3.put_object(Bucket="main-bucket", Key="sum", Body=b"checked", ChecksumAlgorithm=algorithm, **SSE["sse-kms"])
            head = self.s3.head_object(Bucket="main-bucket", Key="sum", ChecksumMode="ENABLED")
            self.assertEqual(head["Checksum" + algorithm], put["Checksum" + algorithm])
        # The check values of the CRC catalogue, over "123456789": e3069283 and ae8b14860a799888.
        for header, value in (("ChecksumCRC32C", bytes.fromhex("e3069283")), ("ChecksumCRC64NVME", bytes.fromhex("ae8b14860a799888"))):
            self.s3.put_object(Bucket="main-bucket", Key="sum", Body=b"123456789", **{header: base64.b64encode(value).decode()})
            self.refused("BadDigest", 400, self.s3.put_object, Bucket="main-bucket", Key="sum2", Body=b"12345678", **{header: base64.b64encode(value).decode()})
        self.refused("BadDigest", 400, self.s3.put_object, Bucket="main-bucket", Key="sum2", Body=b"x", ChecksumSHA256=base64.b64encode(b"0" * 32).decode())
        self.refused("BadDigest", 400, self.s3.put_object, Bucket="main-bucket", Key="sum2", Body=b"x", ContentMD5=base64.b64encode(b"0" * 16).decode())
        self.refused("NoSuchKey", 404, self.get, key="sum2")

    def upload_of_two(self, name, body, **create):
        upload = self.s3.create_multipart_upload(Bucket="main-bucket", Key=name, **create, **SSE["sse-kms"])["UploadId"]
        name = {"Bucket": "main-bucket", "Key": name, "UploadId": upload}
        cut = 5 << 20
        rows = [self.s3.upload_part(PartNumber=n, Body=part, **name) for n, part in ((1, body[:cut]), (2, body[cut:]))]
        return name, {"Parts": [{"PartNumber": n + 1, "ETag": row["ETag"]} for n, row in enumerate(rows)]}

    def test_the_checksum_of_the_whole_is_made_of_the_parts(self):
        body = bytes(range(256)) * (21 << 10) + b"the end"
        cut, complete = 5 << 20, self.s3.complete_multipart_upload
        whole = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
        parts = b"".join(zlib.crc32(part).to_bytes(4, "big") for part in (body[:cut], body[cut:]))
        composite = base64.b64encode(zlib.crc32(parts).to_bytes(4, "big")).decode() + "-2"
        for create, wanted, kind in (({"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}, whole, "FULL_OBJECT"), ({"ChecksumAlgorithm": "CRC32"}, composite, "COMPOSITE")):
            name, done = self.upload_of_two("whole", body, **create)
            self.refused("BadDigest", 400, complete, ChecksumCRC32=whole[::-1] if kind == "FULL_OBJECT" else "AAAAAA==-2", MultipartUpload=done, **name)
            self.refused("InvalidRequest", 400, complete, MpuObjectSize=len(body) - 1, MultipartUpload=done, **name)
            answer = complete(ChecksumCRC32=wanted, MpuObjectSize=len(body), MultipartUpload=done, **name)
            self.assertEqual((answer["ChecksumCRC32"], answer["ChecksumType"]), (wanted, kind))
            head = self.s3.head_object(Bucket="main-bucket", Key="whole", ChecksumMode="ENABLED")
            self.assertEqual((head["ChecksumCRC32"], head["ChecksumType"], head["ContentLength"]), (wanted, kind, len(body)))
        name, done = self.upload_of_two("whole", body, ChecksumAlgorithm="SHA256")
        self.refused("InvalidRequest", 400, complete, ChecksumCRC64NVME="AAAAAAAAAAA=", MultipartUpload=done, **name)
        self.s3.abort_multipart_upload(**name)
        for create in ({"ChecksumAlgorithm": "SHA256", "ChecksumType": "FULL_OBJECT"}, {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "COMPOSITE"}):
            self.refused("InvalidRequest", 400, self.s3.create_multipart_upload, Bucket="main-bucket", Key="never", **create)

    def test_conditions(self):
        etag = self.s3.put_object(Bucket="main-bucket", Key="if", Body=b"x")["ETag"]
        self.assertEqual(self.get("if", IfMatch=etag)["Body"].read(), b"x")
        self.refused("PreconditionFailed", 412, self.get, key="if", IfMatch='"other"')
        self.refused("304", 304, self.get, key="if", IfNoneMatch=etag)
        self.refused("PreconditionFailed", 412, self.s3.put_object, Bucket="main-bucket", Key="if", Body=b"y", IfNoneMatch="*")
        self.assertEqual(self.get("if")["Body"].read(), b"x")

    def test_of_many_writers_of_a_new_key_one_wins(self):
        def write(arguments):
            try:
                self.s3.put_object(Bucket="main-bucket", IfNoneMatch="*", **arguments)
                return 200
            except ClientError as error:
                return error.response["ResponseMetadata"]["HTTPStatusCode"]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for turn in range(10):
                answers = list(pool.map(write, [{"Key": f"once/{turn}", "Body": bytes([who])} for who in range(8)]))
                self.assertEqual(sorted(answers), [200] + [412] * 7)
                self.assertEqual(self.get(f"once/{turn}")["Body"].read()[0], answers.index(200))

    def test_a_completion_replaces_nothing_where_it_must_be_new(self):
        name, done = self.upload_of_two("taken", os.urandom(5 * (1 << 20) + 1))
        self.s3.put_object(Bucket="main-bucket", Key="taken", Body=b"first")
        complete = self.s3.complete_multipart_upload
        self.refused("PreconditionFailed", 412, complete, IfNoneMatch="*", MultipartUpload=done, **name)
        self.assertEqual(self.get("taken")["Body"].read(), b"first")
        self.s3.delete_object(Bucket="main-bucket", Key="taken")
        complete(IfNoneMatch="*", MultipartUpload=done, **name)

    def test_odd_keys_are_kept_as_they_are(self):
        for key in ("../../etc/passwd", "a//b", "/lead", "trail/", "sp ace", "pl+us", "%41", "ünï", "q?x=1&y", "#frag", "x" * 1024):
            self.s3.put_object(Bucket="main-bucket", Key=key, Body=key.encode(), **SSE["sse-kms"])
            self.assertEqual(self.get(key)["Body"].read(), key.encode(), key)
            self.s3.delete_object(Bucket="main-bucket", Key=key)
            self.refused("NoSuchKey", 404, self.get, key=key)
        self.refused("KeyTooLongError", 400, self.s3.put_object, Bucket="main-bucket", Key="x" * 1025, Body=b"")

    def test_presigned_requests_work_until_changed(self):
        s3 = self.daemon.s3(signature_version="s3v4")
        url = s3.generate_presigned_url("put_object", {"Bucket": "main-bucket", "Key": "pre"}, ExpiresIn=60)
        with urllib.request.urlopen(urllib.request.Request(url, data=b"by url", method="PUT")) as answer:
            self.assertEqual(answer.status, 200)
        url = s3.generate_presigned_url("get_object", {"Bucket": "main-bucket", "Key": "pre"}, ExpiresIn=60)
        with urllib.request.urlopen(url) as answer:
            self.assertEqual(answer.read(), b"by url")
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url.replace("/pre?", "/if?"))
        self.assertEqual(caught.exception.code, 403)

    def test_what_is_not_there_is_501_and_unsigned_is_403(self):
        for call, arguments in ((self.s3.get_bucket_acl, {}), (self.s3.get_bucket_versioning, {}), (self.s3.get_bucket_encryption, {}), (self.s3.get_bucket_policy, {}),
                                (self.s3.get_object_tagging, {"Key": "if"}), (self.s3.get_object_acl, {"Key": "if"})):
            self.refused("NotImplemented", 501, call, Bucket="main-bucket", **arguments)
        self.refused("NotImplemented", 501, self.s3.copy_object, Bucket="main-bucket", Key="copy", CopySource="main-bucket/if")
        host = self.daemon.listen
        connection = http.client.HTTPConnection(host)
        connection.request("GET", "/main-bucket/if")
        answer = connection.getresponse()
        self.assertEqual((answer.status, b"<Code>AccessDenied</Code>" in answer.read()), (403, True))

    def test_an_overwrite_replaces_and_its_old_files_go(self):
        for i in range(3):
            self.s3.put_object(Bucket="main-bucket", Key="over", Body=os.urandom(10_000), **SSE["sse-kms"])
        last = self.s3.put_object(Bucket="main-bucket", Key="over", Body=b"last", **SSE["sse-kms"])
        self.assertEqual((self.get("over")["Body"].read(), self.get("over")["ETag"]), (b"last", last["ETag"]))

    def test_nothing_sent_lies_in_the_clear(self):
        secret = os.urandom(64)
        for name in ("sse-s3", "sse-kms", "sse-c"):
            self.s3.put_object(Bucket="main-bucket", Key=f"clear/{name}", Body=secret * 10, **SSE[name])
        md5 = hashlib.md5(secret * 10)
        for path in self.daemon.folder.rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            for needle in (secret, KEY, md5.digest(), md5.hexdigest().encode()):
                self.assertNotIn(needle, data, path)


if __name__ == "__main__":
    unittest.main(verbosity=2)
