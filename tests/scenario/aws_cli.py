#!/usr/bin/env python3
"""The aws command line as people use it: cp, sync, ls, rm, presign, the three kinds of encryption, uploads in parts."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

import hardplate

AWS = os.environ.get("HARDPLATE_AWS") or ("/usr/bin/aws" if os.access("/usr/bin/aws", os.X_OK) else shutil.which("aws"))
if not AWS:
    print("FAILED (CI needs it) aws: not installed" if os.environ.get("CI") == "true" else "SKIP aws: not installed")
    sys.exit(1 if os.environ.get("CI") == "true" else 77)


class AwsCli(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = hardplate.Daemon()
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="hpl-aws-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        (cls.folder / "config").write_text("[default]\ns3 =\n  multipart_threshold = 6MB\n  multipart_chunksize = 5MB\n")
        cls.environment = {
            "PATH": "/usr/bin:/bin", "HOME": str(cls.folder), "LANG": "C.UTF-8", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
            "AWS_CONFIG_FILE": str(cls.folder / "config"), "AWS_DEFAULT_REGION": cls.daemon.env["HARDPLATE_REGION"], "AWS_PAGER": "",
            "AWS_ACCESS_KEY_ID": cls.daemon.env["HARDPLATE_USER_ACCESS_KEY"], "AWS_SECRET_ACCESS_KEY": cls.daemon.env["HARDPLATE_USER_SECRET_KEY"]}
        cls.big = cls.folder / "big"
        cls.big.write_bytes(os.urandom(17_000_001))
        cls.key = cls.folder / "key"
        cls.key.write_bytes(os.urandom(32))
        cls.aws("s3", "mb", "s3://shelf")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    @classmethod
    def aws(cls, *args, fails=False):
        done = subprocess.run([AWS, "--endpoint-url", cls.daemon.endpoint, *map(str, args)], env=cls.environment, capture_output=True, text=True, timeout=120)
        if (done.returncode != 0) != fails:
            raise AssertionError(f"aws {' '.join(map(str, args))} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done.stderr if fails else done.stdout

    def back(self, key, *options):
        path = self.folder / "back"
        path.unlink(missing_ok=True)
        self.aws("s3", "cp", f"s3://shelf/{key}", path, "--quiet", *options)
        return path.read_bytes()

    def head(self, key, *options):
        return json.loads(self.aws("s3api", "head-object", "--bucket", "shelf", "--key", key, *options))

    def test_a_file_in_parts_under_each_kind_of_encryption(self):
        customer = ("--sse-c", "AES256", "--sse-c-key", f"fileb://{self.key}")
        for name, options, back in (("plain", (), ()), ("s3", ("--sse", "AES256"), ()), ("kms", ("--sse", "aws:kms"), ()), ("customer", customer, customer)):
            self.aws("s3", "cp", self.big, f"s3://shelf/big/{name}", "--quiet", *options)
            self.assertEqual(self.back(f"big/{name}", *back), self.big.read_bytes(), name)
        self.assertEqual(self.head("big/kms")["ServerSideEncryption"], "aws:kms")
        self.assertEqual(self.head("big/s3")["ServerSideEncryption"], "AES256")
        self.assertIn("-4", self.head("big/plain")["ETag"])
        self.assertIn("400", self.aws("s3api", "head-object", "--bucket", "shelf", "--key", "big/customer", fails=True))

    def test_a_tree_goes_up_and_comes_back_by_sync(self):
        tree, again = self.folder / "tree", self.folder / "again"
        for i, name in enumerate(("a", "b c", "d/é+&=?#", "d/e/f", "empty", "d/%41")):
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(i * 1000) if name != "empty" else b"")
        self.aws("s3", "sync", tree, "s3://shelf/tree", "--quiet", "--sse", "aws:kms")
        self.assertEqual(self.aws("s3", "sync", tree, "s3://shelf/tree", "--sse", "aws:kms"), "", "nothing is left to do")
        self.aws("s3", "sync", "s3://shelf/tree", again, "--quiet")
        self.assertEqual({p.relative_to(tree): p.read_bytes() for p in tree.rglob("*") if p.is_file()},
                         {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()})
        listed = self.aws("s3", "ls", "s3://shelf/tree/", "--recursive", "--summarize")
        self.assertIn("Total Objects: 6", listed)
        self.assertIn("PRE d/", self.aws("s3", "ls", "s3://shelf/tree/"))
        self.aws("s3", "rm", "s3://shelf/tree", "--recursive", "--quiet")
        self.assertNotIn("tree/", self.aws("s3", "ls", "s3://shelf/"))

    def test_a_list_of_keys_is_deleted(self):
        for name in ("gone/1", "gone/2", "kept"):
            self.aws("s3api", "put-object", "--bucket", "shelf", "--key", name)
        answer = self.aws("s3api", "delete-objects", "--bucket", "shelf", "--delete", "Objects=[{Key=gone/1},{Key=gone/2}]")
        self.assertEqual(sorted(row["Key"] for row in json.loads(answer)["Deleted"]), ["gone/1", "gone/2"])
        self.head("kept")
        self.assertIn("404", self.aws("s3api", "head-object", "--bucket", "shelf", "--key", "gone/1", fails=True))

    def test_a_presigned_link_serves_and_a_changed_one_does_not(self):
        self.aws("s3api", "put-object", "--bucket", "shelf", "--key", "linked", "--body", self.key, "--server-side-encryption", "aws:kms")
        link = self.aws("s3", "presign", "s3://shelf/linked", "--expires-in", "600").strip()
        self.assertEqual(urllib.request.urlopen(link).read(), self.key.read_bytes())
        for wrong in (link.replace("linked", "other"), link.replace("Expires=600", "Expires=601"), link[:-1] + ("0" if link[-1] != "0" else "1")):
            with self.assertRaises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(wrong)
            self.assertEqual(refused.exception.code, 403)

    def test_a_stream_of_unknown_length_and_a_range(self):
        done = subprocess.run([AWS, "--endpoint-url", self.daemon.endpoint, "s3", "cp", "-", "s3://shelf/stream", "--sse", "aws:kms"], env=self.environment,
                              input=self.big.read_bytes(), capture_output=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        part = self.folder / "part"
        self.aws("s3api", "get-object", "--bucket", "shelf", "--key", "stream", "--range", "bytes=5242870-5242890", part)
        self.assertEqual(part.read_bytes(), self.big.read_bytes()[5242870:5242891])

    def test_what_is_refused_is_refused_by_its_name(self):
        self.assertIn("NoSuchBucket", self.aws("s3", "ls", "s3://nowhere", fails=True))
        self.assertIn("404", self.aws("s3api", "head-object", "--bucket", "shelf", "--key", "nothing", fails=True))
        self.aws("s3api", "put-object", "--bucket", "shelf", "--key", "one")
        self.assertIn("BucketNotEmpty", self.aws("s3", "rb", "s3://shelf", fails=True))
        self.assertIn("NotImplemented", self.aws("s3api", "get-bucket-acl", "--bucket", "shelf", fails=True))
        self.assertIn("(NotFound)", self.aws("s3api", "put-object", "--bucket", "shelf", "--key", "x", "--body", self.key, "--server-side-encryption", "aws:kms",
                                             "--ssekms-key-id", "no-such-key", fails=True))
        self.assertIn("404", self.aws("s3api", "head-object", "--bucket", "shelf", "--key", "x", fails=True))


if __name__ == "__main__":
    unittest.main(verbosity=2)
