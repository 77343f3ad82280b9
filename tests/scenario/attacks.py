#!/usr/bin/env python3
"""Who can write to the object store: does a GET give the exact bytes that were stored, or an error, whatever is changed under it?"""
import base64
import hashlib
import hmac
import os
import pathlib
import sqlite3
import struct
import unittest

import hardplate
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

PACKAGE, ON_DISK = 65536, 65568
MIB = 1024 * 1024
KMS = {"ServerSideEncryption": "aws:kms"}
CUSTOMER_KEY = os.urandom(32)
CUSTOMER = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64encode(CUSTOMER_KEY).decode(),
            "SSECustomerKeyMD5": base64.b64encode(hashlib.md5(CUSTOMER_KEY).digest()).decode()}
COLUMNS = "instance, size, modified_ms, manifest, envelope, key_instance, key_uid, key_version, key_id"


def manifest_mac(key, manifest):
    """HMAC under HKDF-SHA256(customer key, salt = instance, info = hpl-manifest-v1), as docs/formats.md says."""
    extracted = hmac.digest(manifest[6:22], key, "sha256")
    return hmac.digest(hmac.digest(extracted, b"hpl-manifest-v1\1", "sha256"), manifest, "sha256")


class Attacks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = hardplate.Daemon()
        cls.s3 = cls.daemon.s3()
        cls.data = pathlib.Path(cls.daemon.env["HARDPLATE_DATA_DIR"])
        cls.index = sqlite3.connect(cls.data / "index.db", isolation_level=None, timeout=10)
        cls.content = {}
        for bucket in ("attacked", "other"):
            cls.s3.create_bucket(Bucket=bucket)
        cls.put("one", os.urandom(3 * PACKAGE + 17), **KMS)
        cls.put("two", os.urandom(3 * PACKAGE + 17), **KMS)
        cls.put("short", os.urandom(100), **KMS)
        cls.put("empty", b"", **KMS)
        cls.put("customer", os.urandom(2 * PACKAGE), **CUSTOMER)
        cls.put("plain", os.urandom(3 * PACKAGE + 17))
        cls.put_parts("parts", [os.urandom(5 * MIB), os.urandom(5 * MIB), os.urandom(99)])

    @classmethod
    def tearDownClass(cls):
        cls.index.close()
        cls.daemon.remove()

    @classmethod
    def put(cls, key, body, **sse):
        cls.s3.put_object(Bucket="attacked", Key=key, Body=body, **sse)
        cls.content[key] = body

    @classmethod
    def put_parts(cls, key, parts):
        upload = cls.s3.create_multipart_upload(Bucket="attacked", Key=key, **KMS)["UploadId"]
        sent = [{"PartNumber": i, "ETag": cls.s3.upload_part(Bucket="attacked", Key=key, UploadId=upload, PartNumber=i, Body=part)["ETag"]}
                for i, part in enumerate(parts, 1)]
        cls.s3.complete_multipart_upload(Bucket="attacked", Key=key, UploadId=upload, MultipartUpload={"Parts": sent})
        cls.content[key] = b"".join(parts)

    # What the attacker sees and touches.

    def row(self, key, bucket="attacked"):
        return self.index.execute(f"SELECT {COLUMNS} FROM objects WHERE bucket = ? AND key = ?", (bucket, key.encode())).fetchone()

    def set_row(self, key, **values):
        columns = ", ".join(f"{name} = ?" for name in values)
        done = self.index.execute(f"UPDATE objects SET {columns} WHERE bucket = 'attacked' AND key = ?", (*values.values(), key.encode()))
        self.assertEqual(done.rowcount, 1)

    def column(self, key, name):
        return self.index.execute(f"SELECT {name} FROM objects WHERE bucket = 'attacked' AND key = ?", (key.encode(),)).fetchone()[0]

    def files(self, key):
        rows = self.index.execute("SELECT file FROM object_files WHERE instance = ? ORDER BY place", (self.column(key, "instance"),)).fetchall()
        return [self.data / "objects" / row[0].hex()[:2] / row[0].hex() for row in rows]

    # What the reader sees.

    def read(self, key, bucket="attacked", **options):
        """(complete?, bytes that came)"""
        sse = CUSTOMER if self.content.get(key) is self.content["customer"] else {}
        try:
            body = self.s3.get_object(Bucket=bucket, Key=key, **sse, **options)["Body"]
        except ClientError:
            return False, b""
        got = b""
        try:
            while piece := body.read(PACKAGE):
                got += piece
        except (BotoCoreError, HTTPError, OSError):
            return False, got
        return True, got

    def refused(self, key, what):
        is_whole, got = self.read(key)
        self.assertFalse(is_whole, f"{what}: the GET ends as if all were well")
        self.assertTrue(self.content[key].startswith(got), f"{what}: bytes came that were never stored")

    def well(self, key):
        self.assertEqual(self.read(key), (True, self.content[key]), key)

    def with_file(self, path, key, forged, what):
        """The GET with these bytes in the file, which is as it was afterwards."""
        right = path.read_bytes()
        self.assertNotEqual(right, forged, what)
        path.write_bytes(forged)
        try:
            self.refused(key, what)
        finally:
            path.write_bytes(right)

    def with_row(self, key, what, **values):
        right = {name: self.column(key, name) for name in values}
        self.assertNotEqual(right, values, what)
        self.set_row(key, **values)
        try:
            self.refused(key, what)
        finally:
            self.set_row(key, **right)

    # Packages.

    def test_packages_moved_by_xor(self):
        [path] = self.files("one")
        right = path.read_bytes()
        packages = [right[at:at + ON_DISK] for at in range(0, len(right), ON_DISK)]
        for a, b in ((0, 1), (1, 2), (0, 2)):
            moved = list(packages)
            for at, package in ((b, packages[a]), (a, packages[b])):
                low = struct.unpack("<I", package[12:16])[0] ^ a ^ b
                moved[at] = package[:12] + struct.pack("<I", low) + package[16:]
            self.with_file(path, "one", b"".join(moved), f"packages {a} and {b} moved by xor")
        self.well("one")

    def test_packages_dropped_doubled_swapped(self):
        [path] = self.files("one")
        right = path.read_bytes()
        packages = [right[at:at + ON_DISK] for at in range(0, len(right), ON_DISK)]
        for what, forged in (("the first dropped", packages[1:]), ("the last dropped", packages[:-1]), ("one doubled", packages[:1] + packages),
                             ("two swapped", [packages[1], packages[0], *packages[2:]]), ("one replaced by another", [packages[1], *packages[1:]]),
                             ("one appended", packages + packages[-1:]), ("one byte appended", [right, b"\0"])):
            self.with_file(path, "one", b"".join(forged), what)
        self.well("one")

    def test_every_byte_of_a_header_and_of_a_tag(self):
        [path] = self.files("short")
        right = path.read_bytes()
        for at in (*range(16), *range(len(right) - 16, len(right)), 16, 50):
            self.with_file(path, "short", right[:at] + bytes([right[at] ^ 0x80]) + right[at + 1:], f"byte {at} changed")
        self.well("short")

    def test_truncated_at_every_byte(self):
        [path] = self.files("short")
        right = path.read_bytes()
        for length in range(len(right)):
            self.with_file(path, "short", right[:length], f"cut to {length} bytes")
        self.well("short")

    def test_a_lost_file(self):
        [path] = self.files("short")
        hidden = path.with_suffix(".hidden")
        path.rename(hidden)
        try:
            self.refused("short", "its file is gone")
        finally:
            hidden.rename(path)
        self.well("short")

    def test_a_range_answers_only_for_its_own_packages(self):
        [path] = self.files("one")
        right = path.read_bytes()
        path.write_bytes(right[:20] + bytes([right[20] ^ 1]) + right[21:])
        try:
            self.assertEqual(self.read("one", Range=f"bytes={PACKAGE}-{PACKAGE + 9}"), (True, self.content["one"][PACKAGE:PACKAGE + 10]))
            self.assertEqual(self.read("one", Range="bytes=65000-70000"), (False, b""))
        finally:
            path.write_bytes(right)

    # Parts.

    def test_parts_swapped_dropped_replaced(self):
        files = self.files("parts")
        contents = [path.read_bytes() for path in files]
        self.with_file(files[0], "parts", contents[1], "the first part is the second")
        self.with_file(files[1], "parts", contents[0], "the second part is the first")
        self.with_file(files[2], "parts", b"", "the last part is empty")
        instance = self.column("parts", "instance")
        self.index.execute("UPDATE object_files SET place = place + 10 WHERE instance = ?", (instance,))
        self.index.execute("UPDATE object_files SET place = CASE place WHEN 10 THEN 1 WHEN 11 THEN 0 ELSE 2 END WHERE instance = ?", (instance,))
        try:
            self.refused("parts", "the index swaps two parts")
        finally:
            self.index.execute("UPDATE object_files SET place = place + 10 WHERE instance = ?", (instance,))
            self.index.execute("UPDATE object_files SET place = CASE place WHEN 10 THEN 1 WHEN 11 THEN 0 ELSE 2 END WHERE instance = ?", (instance,))
        row = self.index.execute("SELECT * FROM object_files WHERE instance = ? ORDER BY place DESC LIMIT 1", (instance,)).fetchone()
        self.index.execute("DELETE FROM object_files WHERE file = ?", (row[2],))
        try:
            self.refused("parts", "the index forgets a part")
        finally:
            self.index.execute("INSERT INTO object_files VALUES (?, ?, ?)", row)
        self.well("parts")

    # Manifests and envelopes.

    def test_every_byte_of_a_manifest(self):
        for key in ("short", "empty", "customer", "plain"):
            right = self.column(key, "manifest")
            for at in range(len(right)):
                self.with_row(key, f"byte {at} of the manifest of {key}", manifest=right[:at] + bytes([right[at] ^ 0x01]) + right[at + 1:])
            self.well(key)

    def test_who_knows_the_customer_key_cannot_change_its_commitment(self):
        stored = self.column("customer", "manifest")
        mac, manifest = stored[:32], stored[32:]
        self.assertEqual(manifest_mac(CUSTOMER_KEY, manifest), mac, "the MAC is what the format page says")
        at = 22 + 2 + len("attacked") + 2 + len("customer") + 8 + 8 + 4 + 4 + 8 + 32
        forged = manifest[:at] + bytes([manifest[at] ^ 1]) + manifest[at + 1:]
        self.with_row("customer", "another commitment under a right MAC", manifest=manifest_mac(CUSTOMER_KEY, forged) + forged)
        self.well("customer")

    def test_a_manifest_cut_short(self):
        right = self.column("short", "manifest")
        for length in range(0, len(right), 3):
            self.with_row("short", f"the manifest cut to {length} bytes", manifest=right[:length])

    def test_every_byte_of_an_envelope(self):
        right = self.column("short", "envelope")
        for at in range(len(right)):
            self.with_row("short", f"byte {at} of the envelope", envelope=right[:at] + bytes([right[at] ^ 0x01]) + right[at + 1:])
        self.with_row("short", "no envelope", envelope=b"")
        self.well("short")

    def test_another_objects_file_manifest_envelope_or_row(self):
        [one], [two] = self.files("one"), self.files("two")
        self.with_file(one, "one", two.read_bytes(), "another object's file")
        for names in (("envelope",), ("manifest",), ("instance",), ("manifest", "envelope"), ("instance", "manifest", "envelope")):
            self.with_row("one", f"another object's {' and '.join(names)}", **{name: self.column("two", name) for name in names})
        self.well("one")
        self.well("two")

    def test_a_row_copied_to_another_name_or_bucket(self):
        row = self.row("one")
        for bucket, key in (("attacked", "copy"), ("other", "one")):
            marks = ", ".join("?" * (2 + len(row)))
            self.index.execute(f"INSERT INTO objects (bucket, key, {COLUMNS}) VALUES ({marks})", (bucket, key.encode(), *row))
            self.assertEqual(self.read(key, bucket), (False, b""), f"the row of attacked/one serves {bucket}/{key}")
            self.index.execute("DELETE FROM objects WHERE bucket = ? AND key = ?", (bucket, key.encode()))

    def test_a_plain_object_in_place_of_a_sealed_one(self):
        names = ("instance", "size", "manifest", "envelope")
        self.with_row("one", "a plain object's row", **{name: self.column("plain", name) for name in names})
        manifest = self.column("one", "manifest")
        mode_at = 32 + 4 # behind the MAC and the magic
        self.assertEqual(manifest[mode_at], 2, "SSE-KMS")
        [path] = self.files("one")
        for mode in (0, 1, 3):
            self.with_row("one", f"the mode set to {mode}", manifest=manifest[:mode_at] + bytes([mode]) + manifest[mode_at + 1:])
        right = path.read_bytes()
        path.write_bytes(b"p" * len(self.content["one"]))
        try:
            self.with_row("one", "a plain file and the mode", manifest=manifest[:mode_at] + b"\0" + manifest[mode_at + 1:], envelope=b"")
        finally:
            path.write_bytes(right)
        self.well("one")

    def test_sizes_that_the_manifest_does_not_say(self):
        for size in (0, len(self.content["one"]) - 1, len(self.content["one"]) + 1, 2**62, -1):
            self.with_row("one", f"size {size}", size=size)
        self.well("one")

    def test_a_plain_objects_file_is_bound_by_its_manifest_in_length(self):
        [path] = self.files("plain")
        self.with_file(path, "plain", path.read_bytes()[:-1], "a plain file cut short")

    def test_a_file_that_is_none_of_the_stores(self):
        """A plain object's bytes are not authenticated: a link in their place would read out whatever the daemon can read, a pipe would never end."""
        secret = self.daemon.folder / "root.key"
        self.put("tiny", os.urandom(secret.stat().st_size))
        self.addCleanup(self.content.pop, "tiny") # it lies in the clear
        [path] = self.files("tiny")
        right = path.read_bytes()
        for what, put in (("a symbolic link to the root secret", lambda: path.symlink_to(secret)), ("a pipe", lambda: os.mkfifo(path)), ("a folder", path.mkdir)):
            path.unlink()
            put()
            try:
                self.refused("tiny", what)
            finally:
                path.rmdir() if path.is_dir() else path.unlink()
                path.write_bytes(right)
        self.well("tiny")

    # What can be read.

    def test_nothing_of_the_content_lies_in_the_data_folder(self):
        kept = b"".join(path.read_bytes() for path in sorted(self.data.rglob("*")) if path.is_file())
        for key, content in self.content.items():
            if key == "plain" or not content:
                continue
            for at in range(0, len(content) - 16, max(1, len(content) // 50)):
                self.assertNotIn(content[at:at + 16], kept, key)
            for tell in (hashlib.md5(content), hashlib.sha256(content), hashlib.sha1(content)):
                self.assertNotIn(tell.digest(), kept, key)
                self.assertNotIn(tell.hexdigest().encode(), kept, key)
                self.assertNotIn(base64.b64encode(tell.digest()), kept, key)
        self.assertNotIn(CUSTOMER_KEY, kept)
        self.assertNotIn(hashlib.md5(CUSTOMER_KEY).digest(), kept)
        self.assertNotIn(CUSTOMER["SSECustomerKeyMD5"].encode(), kept)


if __name__ == "__main__":
    unittest.main(verbosity=2)
