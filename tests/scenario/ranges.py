#!/usr/bin/env python3
"""Ranges of objects: each is exactly the bytes asked for, over package and part borders, for one-piece and multipart objects."""
import os
import unittest

import hardplate
from botocore.exceptions import ClientError

PACKAGE = 65536
KMS = {"ServerSideEncryption": "aws:kms"}


class Ranges(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = hardplate.Daemon()
        cls.s3 = cls.daemon.s3()
        cls.s3.create_bucket(Bucket="ranges")
        cls.one = os.urandom(3 * PACKAGE + 17)
        cls.s3.put_object(Bucket="ranges", Key="one", Body=cls.one, **KMS)
        parts = [os.urandom(5 * 1024 * 1024 + 9), os.urandom(PACKAGE + 1)]
        upload = cls.s3.create_multipart_upload(Bucket="ranges", Key="parts", **KMS)["UploadId"]
        tags = [{"PartNumber": i + 1, "ETag": cls.s3.upload_part(Bucket="ranges", Key="parts", UploadId=upload, PartNumber=i + 1, Body=part)["ETag"]}
                for i, part in enumerate(parts)]
        cls.s3.complete_multipart_upload(Bucket="ranges", Key="parts", UploadId=upload, MultipartUpload={"Parts": tags})
        cls.parts, cls.border = b"".join(parts), len(parts[0])

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    def get(self, key, asked):
        answer = self.s3.get_object(Bucket="ranges", Key=key, Range=asked)
        body = answer["Body"].read()
        self.assertEqual(answer["ResponseMetadata"]["HTTPStatusCode"], 206)
        self.assertEqual(answer["ContentLength"], len(body))
        return body, answer["ContentRange"]

    def expect(self, key, content, first, last):
        body, told = self.get(key, f"bytes={first}-{last}")
        end = min(last + 1, len(content))
        self.assertEqual(body, content[first:end], f"{key} {first}-{last}")
        self.assertEqual(told, f"bytes {first}-{end - 1}/{len(content)}")

    def test_ranges_over_package_borders(self):
        size = len(self.one)
        for first in (0, 1, PACKAGE - 1, PACKAGE, 2 * PACKAGE - 1, 3 * PACKAGE, size - 1):
            for last in (first, first + 1, first + PACKAGE, size - 2, size - 1, size, size + PACKAGE, 10 * size):
                if first <= last:
                    self.expect("one", self.one, first, last)

    def test_ranges_over_a_part_border(self):
        for before, after in ((1, 0), (1, 1), (PACKAGE, PACKAGE), (0, 5), (self.border, 1)):
            self.expect("parts", self.parts, self.border - before, self.border + after)
        self.assertEqual(self.s3.get_object(Bucket="ranges", Key="parts")["Body"].read(), self.parts)

    def test_open_and_suffix_ranges(self):
        self.assertEqual(self.get("one", f"bytes={PACKAGE}-")[0], self.one[PACKAGE:])
        self.assertEqual(self.get("one", "bytes=-1")[0], self.one[-1:])
        self.assertEqual(self.get("one", f"bytes=-{10 * len(self.one)}")[0], self.one)

    def test_a_range_past_the_end_is_refused(self):
        for asked in (f"bytes={len(self.one)}-", f"bytes={len(self.one)}-{len(self.one) + 1}", "bytes=-0"):
            with self.assertRaises(ClientError) as caught:
                self.s3.get_object(Bucket="ranges", Key="one", Range=asked)
            self.assertEqual(caught.exception.response["Error"]["Code"], "InvalidRange")

    def test_a_changed_byte_in_the_data_folder_is_refused(self):
        files = [os.path.join(top, name) for top, _, names in os.walk(self.daemon.env["HARDPLATE_DATA_DIR"]) for name in names]
        before = set(files)
        self.s3.put_object(Bucket="ranges", Key="changed", Body=os.urandom(PACKAGE), **KMS)
        files = [os.path.join(top, name) for top, _, names in os.walk(self.daemon.env["HARDPLATE_DATA_DIR"]) for name in names]
        stored = [path for path in set(files) - before if PACKAGE <= os.path.getsize(path) < 2 * PACKAGE]
        self.assertEqual(len(stored), 1)
        for at in (0, 16, PACKAGE // 2, PACKAGE + 31):
            with open(stored[0], "r+b") as file:
                file.seek(at)
                was = file.read(1)
                file.seek(at)
                file.write(bytes([was[0] ^ 1]))
                file.flush()
                with self.assertRaises(Exception, msg=f"byte {at}"):
                    self.s3.get_object(Bucket="ranges", Key="changed")["Body"].read()
                file.seek(at)
                file.write(was)
        self.assertEqual(len(self.s3.get_object(Bucket="ranges", Key="changed")["Body"].read()), PACKAGE)


if __name__ == "__main__":
    unittest.main(verbosity=2)
