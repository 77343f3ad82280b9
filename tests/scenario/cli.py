#!/usr/bin/env python3
"""The command line over a life of the key service: keys led through their states, the service set up, stopped and started, and what a person
reads when something is refused."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import unittest

from daemon import run
from hardplate import BIN, ROOT, Daemon


class Cli(unittest.TestCase):
    backend = "local"

    def setUp(self):
        self.daemon = Daemon(backend=self.backend)
        self.addCleanup(self.daemon.remove)

    def cli(self, *args, stdin=None, wanted=0):
        code, out, err = run(BIN / "hardplate", "--env", self.daemon.folder / "env", *args, env={"PATH": os.environ["PATH"]}, stdin=stdin)
        self.assertEqual(code, wanted, (args, out, err))
        if wanted:
            self.assertEqual((out, len(err.splitlines())), ("", 1), (args, "one line on standard error"))
            self.assertTrue(err.startswith("hardplate: "), err)
        else:
            self.assertEqual(err, "", args)
        return err if wanted else out

    def answer(self, *args, **how):
        return json.loads(self.cli("--json", *args, **how))


class Keys(Cli):
    def test_a_key_is_led_through_its_states(self):
        self.cli("keys", "create", "orders", "--description", "of 2026", "--tag", "team=blue")
        described = self.cli("keys", "describe", "orders")
        for word in ("orders", "of 2026", "Enabled", "team", "blue"):
            self.assertIn(word, described)
        blob = self.answer("data-key", "--key", "orders")["ciphertext_blob"]
        self.assertIn("Disabled", self.cli("keys", "disable", "orders"))
        self.assertIn("hardplate keys enable", self.cli("decrypt", blob, wanted=1))
        self.assertIn("Enabled", self.cli("keys", "enable", "orders"))
        self.assertEqual(self.answer("keys", "rotate", "orders")["key_metadata"]["current_version"], 2)
        self.cli("decrypt", blob)
        said = self.cli("keys", "delete", "orders", "--days", "7")
        self.assertIn("hardplate keys cancel-deletion orders", said)
        self.assertIn("PendingDeletion", said)
        self.assertIn("KeyPendingDeletion", self.cli("decrypt", blob, wanted=1))
        self.cli("keys", "cancel-deletion", "orders")
        self.cli("keys", "enable", "orders")
        self.cli("decrypt", blob)
        listed = [line.split() for line in self.cli("keys", "list").splitlines() if line.startswith("orders")]
        self.assertEqual(listed[0][:3], ["orders", "Enabled", "2"])

    def test_a_key_is_described_tagged_and_rotated_by_itself(self):
        self.cli("keys", "create", "invoices")
        self.assertIn("of the shop", self.cli("keys", "update", "invoices", "--description", "of the shop"))
        self.cli("keys", "tag", "invoices", "team=red", "cost=7")
        self.assertEqual(self.answer("keys", "untag", "invoices", "cost")["key_metadata"]["tags"].get("team"), "red")
        self.assertNotIn("cost", self.answer("keys", "describe", "invoices")["key_metadata"]["tags"])
        rotated = self.answer("keys", "rotation", "invoices", "--days", "90", "--wraps", "1000000")["key_metadata"]
        self.assertEqual((rotated["rotation_enabled"], rotated["rotation_period_days"], rotated["rotation_max_wraps"]), (True, 90, 1000000))
        self.assertFalse(self.answer("keys", "rotation", "invoices", "--off")["key_metadata"]["rotation_enabled"])
        for args in (["invoices"], ["invoices", "--days", "0"], ["invoices", "--off", "--days", "3"], ["--days", "3"]):
            self.cli("keys", "rotation", *args, wanted=2)
        caching = self.answer("keys", "caching", "invoices", "--decrypt-seconds", "30", "--bucket-key", "--outage-seconds", "60")
        self.assertEqual(caching["key_metadata"]["caching"]["decrypt_seconds"], 30)
        self.assertFalse(self.answer("keys", "caching", "--off", "invoices")["key_metadata"]["caching"]["bucket_key"])
        for args in (["invoices"], ["invoices", "--decrypt-seconds", "61"], ["invoices", "--off", "--bucket-key"]):
            self.cli("keys", "caching", *args, wanted=2)
        for args in (["tag", "invoices"], ["tag", "invoices", "x"], ["untag", "invoices"], ["update", "invoices"]):
            self.cli("keys", *args, wanted=2)
        self.cli("keys", "disable", "invoices")
        self.cli("keys", "create", "letters")
        listed = self.answer("keys", "list", "--status", "Disabled")
        self.assertEqual([key["key_id"] for key in listed["keys"]], ["invoices"])
        self.assertEqual((listed["success"], listed["unreadable_key_ids"], listed["truncated"]), (True, [], False))
        self.assertIn("not counted", self.cli("keys", "describe", "--impact", "letters"))

    def test_a_policy_goes_in_as_it_comes_out(self):
        self.cli("keys", "create", "guarded")
        self.assertIn("none", self.cli("keys", "policy", "get", "guarded"))
        self.cli("keys", "policy", "set", "guarded", "-", stdin='{"grants": [{"principals": ["somebody"], "operations": ["Decrypt"]}]}')
        self.assertIn("guarded", self.cli("data-key", "--key", "guarded", wanted=3))
        said = self.cli("keys", "policy", "get", "guarded")
        self.assertEqual(json.loads(said)["grants"][0]["principals"], ["somebody"])
        self.cli("keys", "policy", "set", "guarded", "-", stdin=said)
        self.assertEqual(self.cli("keys", "policy", "get", "guarded"), said)
        self.cli("keys", "policy", "set", "guarded", "-", stdin='{"grants": 1}', wanted=1)
        self.cli("keys", "policy", "remove", "guarded")
        self.cli("data-key", "--key", "guarded")

    def test_destroying_at_once_wants_the_id_twice_and_the_daemons_leave(self):
        self.cli("keys", "create", "short")
        self.cli("keys", "delete", "short", "--now", wanted=2)
        self.cli("keys", "delete", "short", "--now", "--confirm", "shorter", wanted=2)
        self.assertIn("exclude", self.cli("keys", "delete", "short", "--now", "--days", "7", "--confirm", "short", wanted=2))
        self.assertIn("--now", self.cli("keys", "delete", "short", "--confirm", "short", wanted=2))
        self.assertIn("allow_immediate_deletion", self.cli("keys", "delete", "short", "--now", "--confirm", "short", wanted=1))
        self.cli("data-key", "--key", "short")

    def test_what_others_wrote_does_not_steer_the_terminal(self):
        text = "a\x1b]0;x\x07\nevil  Enabled\x7f\x9b31m\u00e9"
        self.cli("keys", "create", "painted", "--description", text, "--tag", "t\x1b[1m=v\x1b[31m")
        for args in (["keys", "list"], ["keys", "describe", "painted"]):
            said = self.cli(*args)
            self.assertFalse(re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", said), (args, said))
            self.assertIn("a\\u001b]0;x\\u0007\\u000aevil  Enabled\\u007f\\u009b31m\u00e9", said)
        self.assertEqual(self.answer("keys", "describe", "painted")["key_metadata"]["description"], text)
        self.assertIn("no key 'a\\u000ab\\u001b'", self.cli("keys", "describe", "a\nb\x1b", wanted=1))
        policy = {"grants": [{"principals": ["a\u001b\u009bb"], "operations": ["*"]}]}
        self.cli("keys", "policy", "set", "painted", "-", stdin=json.dumps(policy))
        said = self.cli("keys", "policy", "get", "painted")
        self.assertFalse(re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", said), said)
        self.assertEqual(json.loads(said)["grants"][0]["principals"], ["a\u001b\u009bb"])

    def test_output_that_does_not_arrive_is_a_failure(self):
        for args in (["keys", "list"], ["--json", "data-key"], ["keys", "policy", "get", "hardplate-dev"], ["--help"], ["--version"], ["seal", "--help"]):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([BIN / "hardplate", "--env", self.daemon.folder / "env", *args], stdout=full, stderr=subprocess.PIPE)
            self.assertEqual((done.returncode, done.stderr), (1, b"hardplate: cannot write standard output: No space left on device\n"), args)

    def test_refusals_name_what_to_do(self):
        self.assertIn("NotFound", self.cli("keys", "disable", "nobody", wanted=1))
        self.cli("keys", "create", "twice")
        self.assertIn("AlreadyExists", self.cli("keys", "create", "twice", wanted=1))
        for args in (["keys", "delete", "twice", "--days", "6"], ["keys", "delete", "twice", "--days", "7x"], ["keys", "delete"], ["keys", "enable"],
                     ["keys", "create", "a", "b"], ["keys", "create", "--tag", "x"]):
            self.assertIn("usage: hardplate keys", self.cli(*args, wanted=2), args)
        self.assertIn("cancel-deletion", self.cli("keys", wanted=2))
        self.assertIn("is not a command", self.cli("key", wanted=2))

    def test_many_data_keys_come_at_once(self):
        made = self.answer("data-key", "--count", "5", "--context", "a=b")["data_keys"]
        self.assertEqual(len({key["plaintext_key"] for key in made}), 5)
        for key in made:
            self.assertEqual(self.answer("decrypt", "--context", "a=b", "-", stdin=key["ciphertext_blob"])["plaintext_key"], key["plaintext_key"])
        self.assertEqual(self.cli("data-key", "--count", "3").count("plaintext key"), 3)
        self.cli("data-key", "--count", "65", wanted=2)


class Keystores(Cli):
    def test_an_envelope_is_explained_and_rewrapped(self):
        self.cli("keys", "create", "moved")
        made = self.answer("data-key", "--key", "moved", "--context", "a=b")
        said = self.cli("explain", "--context", "a=b", made["ciphertext_blob"])
        self.assertRegex(said, r"opens +yes")
        for word in ("moved", "local, active, open", "api"):
            self.assertIn(word, said)
        self.assertNotIn(made["plaintext_key"], said)
        self.assertRegex(self.cli("explain", made["ciphertext_blob"]), r"opens +no: InvalidCiphertext")
        self.cli("keys", "rotate", "moved")
        moved = self.answer("rewrap", "--context", "a=b", "-", stdin=made["ciphertext_blob"] + "\n")
        self.assertEqual((moved["key_id"], moved["version"]), ("moved", 2))
        for blob in (made["ciphertext_blob"], moved["ciphertext_b64"]):
            self.assertEqual(self.answer("decrypt", "--context", "a=b", blob)["plaintext_key"], made["plaintext_key"])
        self.cli("keys", "create", "other")
        self.assertIn("other", self.cli("rewrap", "--key", "other", "--context", "a=b", made["ciphertext_blob"]))
        self.cli("rewrap", made["ciphertext_blob"], wanted=1)
        self.cli("keys", "disable", "moved")
        self.assertRegex(self.cli("explain", "--context", "a=b", made["ciphertext_blob"]), r"opens +no: KeyDisabled")

    def test_an_object_is_explained(self):
        s3 = self.daemon.s3()
        s3.create_bucket(Bucket="told")
        s3.put_object(Bucket="told", Key="a/b c", Body=b"x" * 1000, ServerSideEncryption="aws:kms")
        s3.put_object(Bucket="told", Key="own", Body=b"x", SSECustomerAlgorithm="AES256", SSECustomerKey="k" * 32)
        said = self.cli("explain", "s3://told/a/b c")
        self.assertRegex(said, r"opens +yes")
        self.assertIn("SSE-KMS", said)
        self.assertIn("SSE-C", self.cli("explain", "s3://told/own"))
        self.assertIn("NotFound", self.cli("explain", "s3://told/nothing", wanted=1))
        for uri in ("s3://told", "s3://", "s3:///x"):
            self.cli("explain", uri, wanted=2)

    def test_keystores_are_listed_and_a_former_one_is_detached_when_nothing_needs_it(self):
        blob = self.answer("data-key")["ciphertext_blob"]
        other = self.daemon.folder / "keys-2"
        self.cli("reconfigure", "-", stdin=json.dumps({"backend_type": "local", "key_dir": str(other)}))
        rows = {row["state"]: row for row in self.answer("backends")["backends"]}
        self.assertEqual(set(rows), {"active", "former"})
        self.assertIn("former", self.cli("backends"))
        self.assertIn("Conflict", self.cli("backends", "detach", rows["active"]["instance"], wanted=1))
        self.cli("backends", "detach", rows["former"]["instance"], wanted=1)
        self.cli("backends", "detach", "--confirm-external", rows["former"]["instance"])
        self.assertIn("detached", self.cli("explain", blob))
        for args in (["x"], ["detach"], ["detach", "a", "b"]):
            self.cli("backends", *args, wanted=2)


class Service(Cli):
    backend = "none"

    def test_it_is_configured_started_changed_and_stopped(self):
        self.assertIn("hardplate configure", self.cli("start", wanted=4))
        self.assertIn("hardplate configure", self.cli("status"))
        self.cli("configure", "-", stdin='{"backend_type": "local", "default_key_id": "first"}')
        self.assertIn("NotRunning", self.cli("data-key", wanted=4))
        self.assertIn("Running", self.cli("start"))
        self.assertEqual(self.answer("data-key")["key_id"], "first")
        changed = self.daemon.folder / "changed.json"
        changed.write_text('{"default_key_id": "second"}')
        self.cli("reconfigure", changed)
        self.assertEqual(self.answer("data-key")["key_id"], "second")
        self.assertIn("second", self.cli("config"))
        self.assertEqual(self.cli("clear-cache"), "done\n")
        self.assertEqual(self.cli("--json", "clear-cache"), "{}\n")
        self.cli("stop")
        self.assertIn("Configured", self.cli("status"))

    def test_what_is_not_encrypted_goes_to_no_proxy(self):
        with socket.socket() as proxy:
            proxy.bind(("127.0.0.1", 0))
            proxy.listen()
            proxy.setblocking(False)
            there = f"http://127.0.0.1:{proxy.getsockname()[1]}"
            env = {"PATH": os.environ["PATH"], "http_proxy": there, "HTTP_PROXY": there, "ALL_PROXY": there, "all_proxy": there}
            self.assertEqual(run(BIN / "hardplate", "--env", self.daemon.folder / "env", "status", env=env)[0], 0)
            with self.assertRaises(BlockingIOError):
                proxy.accept()

    def test_a_bad_file_is_told_before_it_is_sent(self):
        path = self.daemon.folder / "bad.json"
        path.write_text("{")
        self.assertIn("bad.json", self.cli("configure", path, wanted=1))
        self.assertIn("standard input", self.cli("configure", "-", stdin="[]", wanted=1))
        self.assertIn("nothing.json", self.cli("configure", self.daemon.folder / "nothing.json", wanted=1))
        self.assertIn("backend_type", self.cli("configure", "-", stdin="{}", wanted=1))
        self.cli("configure", wanted=2)


class WithLeave(unittest.TestCase):
    """A daemon from a file that allows what is off by default."""

    def setUp(self):
        self.folder = folder = pathlib.Path(tempfile.mkdtemp(prefix="hpl-leave-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        for name, text in (("root.key", "ab" * 32), ("ops.secret", "s" * 40), ("material", "c0" * 32)):
            (folder / name).write_text(text + "\n")
            os.chmod(folder / name, 0o400)
        (folder / "c.yaml").write_text(f"""
state_dir: {folder}/state
listen: 127.0.0.1:0
root: {{file: {folder}/root.key}}
credentials: [{{access_key: ops, secret_file: {folder}/ops.secret, role: admin}}]
kms: {{backend_type: local}}
allow_import: true
allow_immediate_deletion: true
""")
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen([str(BIN / "hardplated"), "--config", str(folder / "c.yaml")], stdout=subprocess.PIPE, stderr=log)
        self.addCleanup(self.end)
        endpoint = self.process.stdout.readline().decode().split()[-1]
        self.env = {"HARDPLATE_ENDPOINT": endpoint, "HARDPLATE_ACCESS_KEY": "ops", "HARDPLATE_SECRET_KEY": "s" * 40, "PATH": os.environ["PATH"]}

    def end(self):
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()

    def cli(self, *args, wanted=0):
        code, out, err = run(BIN / "hardplate", *args, env=self.env)
        self.assertEqual(code, wanted, (args, out, err))
        return out + err

    def test_material_is_imported_and_never_travels_in_the_clear(self):
        self.assertIn("EXTERNAL", self.cli("keys", "import", "partner", self.folder / "material", "--description", "theirs"))
        self.cli("data-key", "--key", "partner")
        self.assertIn("AlreadyExists", self.cli("keys", "import", "partner", self.folder / "material", wanted=1))
        self.cli("keys", "rotate", "partner", wanted=1)
        (self.folder / "short").write_text("ab")
        os.chmod(self.folder / "short", 0o600)
        self.assertIn("32 bytes", self.cli("keys", "import", "another", self.folder / "short", wanted=1))
        os.chmod(self.folder / "material", 0o444)
        self.assertIn("chmod", self.cli("keys", "import", "another", self.folder / "material", wanted=1))
        self.cli("keys", "import", "another", wanted=2)

    def test_a_key_is_destroyed_at_once(self):
        self.cli("keys", "create", "short")
        self.cli("keys", "delete", "short", "--now", wanted=2)
        self.assertIn("Destroyed", self.cli("keys", "delete", "short", "--now", "--confirm", "short"))
        self.cli("data-key", "--key", "short", wanted=1)


class Help(unittest.TestCase):
    def commands(self):
        code, out, err = run(BIN / "hardplate", "--help")
        self.assertEqual((code, err), (0, ""))
        found = [line[2:22].strip() for line in out.splitlines() if re.match(r"  [a-z]", line)]
        self.assertGreater(len(found), 20)
        return found

    def test_every_command_explains_itself(self):
        for command in self.commands():
            code, said, err = run(BIN / "hardplate", *command.split(), "--help")
            self.assertEqual((code, err), (0, ""), command)
            self.assertRegex(said, rf"Usage: hardplate .*{command}")
            self.assertLess(max(map(len, said.splitlines())), 160)

    def test_every_command_is_in_the_manual_and_in_the_docs(self):
        manual, docs = (ROOT / "docs/man/hardplate.1").read_text(), (ROOT / "docs/cli.md").read_text()
        for command in self.commands():
            self.assertRegex(manual, rf"(?m)^\.It Ic {command}( |$)", "docs/man/hardplate.1")
            self.assertIn(f"hardplate {command}", docs, "docs/cli.md")


MODULE = "/usr/lib/softhsm/libsofthsm2.so"


@unittest.skipUnless(os.path.exists(MODULE) and shutil.which("softhsm2-util"), "softhsm2 is not installed")
class Tokens(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hpl-hsm-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        (self.folder / "tokens").mkdir()
        (self.folder / "softhsm2.conf").write_text(f"directories.tokendir = {self.folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.env = {"PATH": os.environ["PATH"], "SOFTHSM2_CONF": str(self.folder / "softhsm2.conf"), "XDG_STATE_HOME": str(self.folder / "home")}
        run("softhsm2-util", "--init-token", "--free", "--label", "cli", "--so-pin", "so-pin-1", "--pin", "user-pin-1", env=self.env)
        self.pin("user-pin-1")

    def pin(self, pin):
        (self.folder / "pin").write_text(pin + "\n")
        os.chmod(self.folder / "pin", 0o600)

    def conformance(self, *options, uri="pkcs11:token=cli"):
        return run(BIN / "hardplate", "hsm", "conformance", "--module", MODULE, "--pin-source", f"file:{self.folder}/pin", *options, uri, env=self.env,
                   timeout=300)

    def test_a_token_is_judged_and_a_report_written(self):
        code, page, err = self.conformance("--seconds", "1", "--report", self.folder / "report.json")
        self.assertEqual((code, err), (0, ""), page)
        self.assertIn("hardplate would use this token, by aes-gcm", page)
        self.assertIn("CKR_GENERAL_ERROR", page)
        written = json.loads((self.folder / "report.json").read_text())
        inner = json.dumps(written["report"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.assertEqual(len(written["report"]["load"]), 4)
        self.assertNotIn("token_object", written["report"], "nobody could be asked for leave")
        self.assertIn(written["sha256"], page)
        self.assertNotIn("user-pin-1", inner + page)
        self.assertEqual(list((self.folder / "tokens").glob("*/*.object")), [p for p in (self.folder / "tokens").glob("*/token.object")])

    def test_the_digest_is_of_the_report(self):
        code, out, err = run(BIN / "hardplate", "--json", "hsm", "conformance", "--module", MODULE, "--pin-source", f"file:{self.folder}/pin",
                             "--seconds", "0", "--token-objects", "pkcs11:token=cli", env=self.env, timeout=300)
        self.assertEqual((code, err), (0, ""))
        start, end = out.index('{"report":') + len('{"report":'), out.rindex(',"sha256"')
        self.assertEqual(hashlib.sha256(out[start:end].encode()).hexdigest(), json.loads(out)["sha256"])
        self.assertTrue(json.loads(out)["report"]["token_object"]["works"])

    def test_a_refused_pin_is_not_sent_again(self):
        self.pin("0000")
        code, out, err = self.conformance("--seconds", "0")
        self.assertEqual((code, len(err.splitlines())), (4, 1), err)
        self.assertIn("refused the PIN", err)
        code, out, err = self.conformance("--seconds", "0")
        self.assertEqual(code, 4)
        self.assertIn("refused this PIN before", err)
        self.pin("user-pin-1")
        self.assertEqual(self.conformance("--seconds", "0")[0], 0)

    def check(self, **files):
        for name, text in {"root.key": "ab" * 32, "ops.secret": "s" * 40, **files}.items():
            (self.folder / name).write_text(text + "\n")
            os.chmod(self.folder / name, 0o600)
        (self.folder / "c.yaml").write_text(f"""
state_dir: {self.folder}/state
listen: 127.0.0.1:0
root: {{file: {self.folder}/root.key}}
credentials: [{{access_key: ops, secret_file: {self.folder}/ops.secret, role: admin}}]
tokens: [{{name: main, uri: "pkcs11:token=cli", module: {MODULE}, pin_source: "file:{self.folder}/pin"}}]
""")
        return run(BIN / "hardplated", "--config", self.folder / "c.yaml", "--check", env=self.env)

    def test_the_daemons_check_can_come_before_the_first_start(self):
        code, out, err = self.check()
        self.assertEqual((code, err), (0, ""), out)
        self.assertIn("PIN accepted", out)
        os.chmod(self.folder / "ops.secret", 0o644)
        code, out, err = run(BIN / "hardplated", "--config", self.folder / "c.yaml", "--check", env=self.env)
        self.assertEqual((code, err), (1, ""))
        self.assertRegex(out, r"FAIL +key ops +.*chmod")

    def test_the_daemons_check_sends_a_refused_pin_once_and_the_daemon_not_again(self):
        self.pin("0000")
        for words in ("refused the PIN", "refused this PIN before", "refused this PIN before"):
            code, out, err = self.check()
            self.assertEqual((code, err), (1, ""))
            self.assertIn(words, out)
        with open(self.folder / "c.yaml", "a") as config:
            config.write("kms: {backend_type: pkcs11, token: main}\n")
        code, out, err = run(BIN / "hardplated", "--config", self.folder / "c.yaml", env=self.env)
        self.assertEqual(code, 1)
        self.assertIn("refused this PIN before", err)

    def test_what_cannot_be_asked_is_one_line(self):
        for options, uri, wanted in ((["--seconds", "x"], "pkcs11:token=cli", 2), (["--seconds", "0"], "pkcs11:token=other", 4),
                                     (["--seconds", "0"], "pkcs11:token=cli?pin-value=never-to-be-said", 1), (["--nonsense"], "pkcs11:token=cli", 2)):
            code, out, err = self.conformance(*options, uri=uri)
            self.assertEqual((code, out, len(err.splitlines())), (wanted, "", 1), err)
            self.assertNotIn("never-to-be-said", err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
