#!/usr/bin/env python3
"""hardplate seal and open: what was sealed comes back, byte for byte, under its key and context alone; anything else is one line and an exit status."""
import base64
import contextlib
import hashlib
import os
import pathlib
import pty
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

from hardplate import BIN, ROOT, Daemon, wait_until

sys.path.insert(0, str(ROOT / "tests/interop"))
import read_stored  # noqa: E402

SIZES = (0, 1, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1, 40 << 20)
CHUNK_OF_PACKAGES = 16  # of the command's chunks, whose edges are asked about
PACKAGE = 65568
FIXED = 7 + 16 + 32 + 32 + 32  # a header less its envelope


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hpl-files-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.key = os.urandom(32)
        self.key_file = self.private("key", self.key)

    def private(self, name, data):
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(0o600)
        return path

    def run_cli(self, *args, stdin=b"", env=None):
        done = subprocess.run([str(BIN / "hardplate"), *map(str, args)], input=stdin, capture_output=True, timeout=120,
                              env={"PATH": os.environ["PATH"], **(env or {})})
        return done.returncode, done.stdout, done.stderr.decode()

    def done(self, *args, **kwargs):
        code, out, err = self.run_cli(*args, **kwargs)
        self.assertEqual((code, err), (0, ""), args)
        return out

    def refused(self, wanted, *args, word="", **kwargs):
        code, out, err = self.run_cli(*args, **kwargs)
        self.assertEqual((code, len(err.splitlines())), (wanted, 1), (args, err))
        self.assertIn(word, err)
        self.assertTrue(err.startswith("hardplate: "), err)
        return out

    def seal(self, plain, *args):
        return self.done("seal", "--key-file", self.key_file, *args, "-", stdin=plain)

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())


class KeyFile(Files):
    def test_every_length_comes_back_by_file_and_by_pipe(self):
        for size in SIZES:
            plain = os.urandom(size)
            path = self.private(f"f{size}", plain)
            self.done("seal", "--key-file", self.key_file, path)
            sealed = pathlib.Path(f"{path}.hpl")
            packages = (size + 65535) // 65536
            self.assertEqual(sealed.stat().st_size, FIXED + size + 32 * packages + 32, size)
            self.assertEqual(sealed.stat().st_mode & 0o777, 0o600)
            self.done("open", "--key-file", self.key_file, "-o", self.folder / "back", "--force", sealed)
            self.assertEqual(hashlib.sha256((self.folder / "back").read_bytes()).digest(), hashlib.sha256(plain).digest(), size)
            self.assertTrue(self.done("open", "--key-file", self.key_file, "-", stdin=self.seal(plain)) == plain, size)

    def test_an_independent_reader_opens_it(self):
        for size in (0, 1, 65536, 65537, 300000):
            plain = os.urandom(size)
            self.assertEqual(read_stored.open_file(self.key, self.seal(plain)), plain)
            sealed = self.seal(plain, "--context", "z=1", "--context", "ä=b=c", "--context", "a=")
            self.assertEqual(read_stored.open_file(self.key, sealed, [("a", ""), ("z", "1"), ("ä", "b=c")]), plain)
            with self.assertRaises(AssertionError):
                read_stored.open_file(self.key, sealed)

    def test_the_default_name_is_the_files_without_the_suffix(self):
        path = self.private("letter", b"dear")
        self.done("seal", "--key-file", self.key_file, path)
        path.unlink()
        self.done("open", "--key-file", self.key_file, f"{path}.hpl")
        self.assertEqual(path.read_bytes(), b"dear")

    def test_nothing_of_the_plaintext_stands_in_it_and_no_two_are_alike(self):
        plain = b"the same forty bytes over and over again" * 5000
        one, two = self.seal(plain), self.seal(plain)
        self.assertNotIn(b"forty bytes", one)
        self.assertNotEqual(one[FIXED:FIXED + 64], two[FIXED:FIXED + 64])

    def test_a_key_file_in_hex_is_the_same_key(self):
        sealed = self.seal(b"hex")
        for text in (self.key.hex(), self.key.hex().upper() + "\n"):
            hexed = self.private("hex", text.encode())
            self.assertEqual(self.done("open", "--key-file", hexed, "-", stdin=sealed), b"hex")
        ends = self.private("ends", b"k" * 31 + b"\n")
        self.assertEqual(self.done("open", "--key-file", ends, "-", stdin=self.done("seal", "--key-file", ends, "-", stdin=b"x")), b"x")

    def test_a_key_file_must_be_private_and_of_the_right_form(self):
        for bad in (b"", b"k" * 31, b"k" * 33, b"g" * 64, b"a" * 63, b"a" * 66, b"a" * 5000):
            self.refused(1, "seal", "--key-file", self.private("bad", bad), "-", stdin=b"x", word="bad")
        self.key_file.chmod(0o644)
        self.refused(1, "seal", "--key-file", self.key_file, "-", stdin=b"x", word="chmod")
        self.refused(1, "seal", "--key-file", self.folder / "none", "-", stdin=b"x", word="none")

    def test_another_key_or_context_is_refused_before_a_byte(self):
        sealed = self.seal(b"x" * 100000, "--context", "a=b", "--context", "c=d")
        other = self.private("other", os.urandom(32))
        opened = self.done("open", "--key-file", self.key_file, "--context", "c=d", "--context", "a=b", "-", stdin=sealed)
        self.assertEqual(opened, b"x" * 100000)
        self.assertEqual(self.refused(1, "open", "--key-file", other, "--context", "a=b", "--context", "c=d", "-", stdin=sealed, word="key"), b"")
        for context in ([], ["--context", "a=b"], ["--context", "a=d", "--context", "c=b"], ["--context", "a=b", "--context", "c=d", "--context", "e=f"]):
            self.assertEqual(self.refused(1, "open", "--key-file", self.key_file, *context, "-", stdin=sealed, word="context"), b"")

    def test_no_byte_of_header_or_trailer_may_differ(self):
        for plain in (b"", b"x"):
            sealed = self.seal(plain)
            for at in [*range(FIXED), *range(len(sealed) - 32, len(sealed))]:
                damaged = bytearray(sealed)
                damaged[at] ^= 1 << (at % 8)
                code, out, err = self.run_cli("open", "--key-file", self.key_file, "-", stdin=bytes(damaged))
                self.assertIn((code, out, len(err.splitlines())), ((1, b"", 1), (2, b"", 1)), at)

    def test_cut_short_anywhere_it_is_refused(self):
        plain = os.urandom((CHUNK_OF_PACKAGES + 2) * 65536 + 5)
        sealed = self.seal(plain)
        chunk = FIXED + CHUNK_OF_PACKAGES * PACKAGE
        for length in (0, 1, 6, 7, FIXED - 1, FIXED, FIXED + 31, FIXED + 32, FIXED + 33, FIXED + PACKAGE, FIXED + PACKAGE + 32, chunk - 1, chunk, chunk + 31, chunk + 32,
                       chunk + 33, chunk + PACKAGE, chunk + PACKAGE + 32, len(sealed) - 70, len(sealed) - 33, len(sealed) - 32, len(sealed) - 1):
            out = self.refused(1, "open", "--key-file", self.key_file, "-", stdin=sealed[:length])
            self.assertTrue(plain.startswith(out), length)
        for length in (0, 7, FIXED + 32, len(sealed) - 32):
            self.refused(1, "open", "--key-file", self.key_file, "-o", self.folder / "out", self.private("cut", sealed[:length]))
            self.assertEqual(self.names(), ["cut", "key"], "nothing half-written stays")

    def test_an_empty_file_is_not_made_of_a_full_one(self):
        full, empty = self.seal(b"x" * 70000), self.seal(b"")
        for forged in (full[:FIXED] + full[-32:], full[:FIXED] + empty[-32:], empty[:FIXED] + full[FIXED:], empty[:FIXED] + full[-32:]):
            self.refused(1, "open", "--key-file", self.key_file, "-", stdin=forged)

    def test_packages_stay_where_they_were_and_in_their_file(self):
        plain = os.urandom(3 * 65536 + 9)
        sealed, other = self.seal(plain), self.seal(plain)
        cut = lambda data: [data[FIXED + i * PACKAGE:FIXED + (i + 1) * PACKAGE] for i in range(3)]  # noqa: E731
        a, b, c = cut(sealed)
        head, tail = sealed[:FIXED], sealed[FIXED + 3 * PACKAGE:]
        for packages in ([b, a, c], [a, c, b], [a, b], [a, b, c, c], [a, a, c], [cut(other)[0], b, c], []):
            self.refused(1, "open", "--key-file", self.key_file, "-", stdin=head + b"".join(packages) + tail)
        moved = bytearray(b)  # as the form lets an attacker move it: its number xored into its header's nonce
        moved[12] ^= 1
        moved_a = bytearray(a)
        moved_a[12] ^= 1
        self.refused(1, "open", "--key-file", self.key_file, "-", stdin=head + bytes(moved) + bytes(moved_a) + c + tail)
        self.assertEqual(self.done("open", "--key-file", self.key_file, "-", stdin=sealed), plain)

    def test_nothing_may_follow(self):
        for plain in (b"", b"x", os.urandom(65536), os.urandom(CHUNK_OF_PACKAGES * 65536)):
            sealed = self.seal(plain)
            for more in (b"\0", b"\0" * 32, sealed[-32:], b"\0" * PACKAGE, sealed):
                self.refused(1, "open", "--key-file", self.key_file, "-", stdin=sealed + more)

    def test_a_damaged_middle_gives_verified_bytes_to_a_pipe_and_no_file(self):
        plain = os.urandom(40 << 20)
        sealed = bytearray(self.seal(plain))
        sealed[FIXED + 500 * PACKAGE + 99] ^= 1
        out = self.refused(1, "open", "--key-file", self.key_file, "-", stdin=bytes(sealed), word="damaged")
        self.assertTrue(plain.startswith(out) and len(out) <= 500 * 65536)
        self.refused(1, "open", "--key-file", self.key_file, self.private("d.hpl", bytes(sealed)))
        self.assertEqual(self.names(), ["d.hpl", "key"])

    def test_what_is_there_stays_without_force(self):
        path, taken = self.private("f", b"new"), self.private("f.hpl", b"old")
        self.refused(1, "seal", "--key-file", self.key_file, path, word="--force")
        self.assertEqual(taken.read_bytes(), b"old")
        self.done("seal", "--key-file", self.key_file, "--force", path)
        self.refused(1, "open", "--key-file", self.key_file, taken, word="--force")
        path.write_bytes(b"older")
        self.done("open", "--key-file", self.key_file, "--force", taken)
        self.assertEqual((path.read_bytes(), self.names()), (b"new", ["f", "f.hpl", "key"]))

    def test_only_regular_files_are_replaced(self):
        (self.folder / "link").symlink_to(self.key_file)
        for target in ("/dev/null", self.folder, self.folder / "link"):
            self.refused(1, "seal", "--key-file", self.key_file, "--force", "-o", target, "-", stdin=b"x", word="regular")
        self.assertEqual(self.key_file.read_bytes(), self.key)

    def test_what_cannot_be_read_or_written_is_said(self):
        self.refused(1, "seal", "--key-file", self.key_file, self.folder / "nothing", word="nothing")
        self.refused(1, "seal", "--key-file", self.key_file, self.folder, word="tar")
        self.refused(1, "seal", "--key-file", self.key_file, "-o", self.folder / "no" / "way", "-", stdin=b"x", word="way")
        with open("/dev/full", "wb") as full:
            done = subprocess.run([BIN / "hardplate", "seal", "--key-file", self.key_file, "-"], input=b"x" * 10_000_000, stdout=full, stderr=subprocess.PIPE)
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1), done.stderr)
        self.assertIn(b"standard output", done.stderr)

    def test_a_damaged_stream_ends_it_although_the_pipe_stays_open(self):
        sealed = bytearray(self.seal(os.urandom(20 << 20)))
        sealed[FIXED + 99] ^= 1
        with subprocess.Popen([BIN / "hardplate", "open", "--key-file", self.key_file, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE) as process:
            try:
                process.stdin.write(sealed[:6 << 20])
                process.stdin.flush()
            except BrokenPipeError:
                pass
            self.assertEqual(process.wait(60), 1)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    def test_a_signal_leaves_no_temporary_behind(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
            with subprocess.Popen([BIN / "hardplate", "seal", "--key-file", self.key_file, "-o", self.folder / "out", "-"], stdin=subprocess.PIPE) as process:
                process.stdin.write(b"x" * 100)
                process.stdin.flush()
                self.assertTrue(wait_until(lambda: len(self.names()) == 2))
                process.send_signal(number)
                self.assertEqual(process.wait(60), -number)
            self.assertEqual(self.names(), ["key"])

    def test_a_file_that_may_not_grow_is_said_and_leaves_nothing(self):
        done = subprocess.run([BIN / "hardplate", "seal", "--key-file", self.key_file, "-o", self.folder / "out", "-"], input=b"x" * 3_000_000, capture_output=True,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)))
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1), done)
        self.assertIn(b"File too large", done.stderr)
        self.assertEqual(self.names(), ["key"])

    def test_a_terminal_sees_how_far_it_is_and_a_pipe_does_not(self):
        main, side = pty.openpty()
        self.addCleanup(os.close, main)
        said = bytearray()

        def listen():
            with contextlib.suppress(OSError):  # the terminal ends with the program
                while piece := os.read(main, 4096):
                    said.extend(piece)

        def feed(process):
            process.stdin.write(b"x" * (4 << 20))
            process.stdin.flush()
            return b"MiB/s" in said
        listener = threading.Thread(target=listen)
        with subprocess.Popen([BIN / "hardplate", "seal", "--key-file", self.key_file, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=side) as process:
            os.close(side)
            listener.start()
            self.assertTrue(wait_until(lambda: feed(process)))
            process.stdin.close()
            self.assertEqual(process.wait(60), 0)
        listener.join()
        self.assertTrue(said.endswith(b"\r\x1b[K"), "the line is taken away at the end")

    def test_usage(self):
        for args in (["seal"], ["open"], ["seal", "a", "b"], ["seal", "--key", "k", "--key-file", "f", "-"], ["open", "--key", "k", "-"], ["seal", "--context", "x", "-"],
                     ["seal", "--context", "a=b", "--context", "a=c", "-"], ["open", "--key-file", self.key_file, "name"], ["open", ".hpl"], ["seal", "-x", "-"],
                     ["seal", "-o", "", "-"], ["seal", "-"]):
            self.refused(2, *args)


class DaemonKey(Files):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()
        cls.daemon.admin("POST", "kms/keys", {"Tags": {"name": "files"}})

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    def run_cli(self, *args, **kwargs):
        return super().run_cli("--env", self.daemon.folder / "env", *args, **kwargs)

    def test_every_length_comes_back_under_a_key_of_the_daemons(self):
        for size in (0, 1, 65536, 65537, 40 << 20):
            plain = os.urandom(size)
            for args in ([], ["--key", "files", "--context", "tenant=7"]):
                sealed = self.done("seal", *args, "-", stdin=plain)
                self.assertTrue(self.done("open", *args[2:], "-", stdin=sealed) == plain, size)

    def test_an_independent_reader_opens_it_with_the_daemons_answer(self):
        sealed = self.done("seal", "--key", "files", "--context", "tenant=7", "-", stdin=b"x" * 100000)
        envelope = sealed[7:7 + int.from_bytes(sealed[5:7], "big")]
        status, answer, _ = self.daemon.admin("POST", "kms/decrypt", {"ciphertext_blob": base64.b64encode(envelope).decode(), "encryption_context": {"tenant": "7"}})
        self.assertEqual((status, answer["key_id"]), (200, "files"))
        key = base64.b64decode(answer["plaintext_key"])
        self.assertNotIn(key, sealed)
        self.assertEqual(read_stored.open_file(key, sealed, [("tenant", "7")]), b"x" * 100000)

    def test_another_context_or_kind_of_key_is_refused(self):
        sealed = self.done("seal", "--context", "tenant=7", "-", stdin=b"x")
        for context in ([], ["--context", "tenant=8"], ["--context", "tenant=7", "--context", "more=1"]):
            self.assertEqual(self.refused(1, "open", *context, "-", stdin=sealed), b"")
        self.refused(2, "open", "--key-file", self.key_file, "--context", "tenant=7", "-", stdin=sealed, word="leave out --key-file")
        self.refused(2, "open", "-", stdin=self.seal(b"x"), word="--key-file")
        self.refused(1, "seal", "--key", "nobody", "-", stdin=b"x", word="nobody")

    def test_no_byte_of_the_header_may_differ(self):
        sealed = self.done("seal", "-", stdin=b"x")
        for at in range(len(sealed) - 1 - 32 - 32):
            damaged = bytearray(sealed)
            damaged[at] ^= 1 << (at % 8)
            code, out, err = self.run_cli("open", "-", stdin=bytes(damaged))
            self.assertIn((code, out, len(err.splitlines())), ((1, b"", 1), (2, b"", 1)), (at, err))

    def test_exit_codes_tell_denied_from_unavailable(self):
        sealed = self.done("seal", "-", stdin=b"x")
        env = {name: self.daemon.env[name] for name in ("HARDPLATE_ENDPOINT", "HARDPLATE_ACCESS_KEY", "HARDPLATE_SECRET_KEY")}
        for wanted, more in ((0, {}), (3, {"HARDPLATE_SECRET_KEY": "x" * 40}), (4, {"HARDPLATE_ENDPOINT": "http://127.0.0.1:9"})):
            code, out, err = super().run_cli("open", "-", stdin=sealed, env={**env, **more})
            self.assertEqual((code, out, len(err.splitlines())), (wanted, b"" if wanted else b"x", 1 if wanted else 0), err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
