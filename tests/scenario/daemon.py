#!/usr/bin/env python3
"""The daemon and the command line as a person meets them: dev mode, restart, --check, one-line failures, exit codes."""
import json
import os
import pathlib
import resource
import shutil
import socket
import stat
import subprocess
import tempfile
import time
import unittest
import unittest.mock

from hardplate import BIN, Daemon, told_endpoint, wait_until


def run(*args, env=None, timeout=60, stdin=None):
    done = subprocess.run([str(a) for a in args], env=env, timeout=timeout, input=stdin, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


class Dev(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.remove)

    def assert_private(self):
        for path in self.daemon.folder.rglob("*"):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode) & 0o077, 0, path)

    def test_the_env_file_has_every_line_and_is_private(self):
        names = {"ENDPOINT", "REGION", "ACCESS_KEY", "SECRET_KEY", "USER_ACCESS_KEY", "USER_SECRET_KEY", "DATA_DIR", "KEY_DIR", "PKCS11_CONFIG", "RESTART"}
        self.assertEqual({name.removeprefix("HARDPLATE_") for name in self.daemon.env}, names)
        self.assert_private()
        code, out, err = run("sh", "-c", '. "$1" && echo "$HARDPLATE_PKCS11_CONFIG"', "sh", self.daemon.folder / "env")
        self.assertEqual(json.loads(out)["backend_type"], "pkcs11", err)

    def test_started_again_it_has_everything_it_had(self):
        s3 = self.daemon.s3()
        s3.create_bucket(Bucket="kept")
        s3.put_object(Bucket="kept", Key="o", Body=b"kept" * 1000, ServerSideEncryption="aws:kms")
        before = dict(self.daemon.env)
        self.assertEqual(self.daemon.stop(), 0, "SIGTERM ends it with 0")
        self.assertFalse((self.daemon.folder / "pid").exists(), "nobody answers here now")
        self.daemon.start(self.daemon.listen)
        self.assertEqual(self.daemon.env, before, "the same credentials and address")
        self.assertEqual(self.daemon.s3().get_object(Bucket="kept", Key="o")["Body"].read(), b"kept" * 1000)
        self.assertEqual(self.daemon.admin("GET", "kms/status")[1]["status"], "Running")
        self.daemon.admin("POST", "kms/stop")
        self.daemon.restart()
        self.assertEqual(self.daemon.admin("GET", "kms/status")[1]["status"], "Configured", "stopped stays stopped")

    def test_what_a_killed_daemon_left_says_nothing_of_the_next(self):
        self.daemon.stop(kill=True)
        (self.daemon.folder / "env").write_text("HARDPLATE_ENDPOINT='http://127.0.0.1:1'\n")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.assertEqual(run(BIN / "hardplated", "--dev", self.daemon.folder, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")[0], 1)
        self.assertFalse((self.daemon.folder / "pid").exists() or (self.daemon.folder / "env").exists())
        self.daemon.start()

    def test_the_process_is_told_of_until_it_has_ended(self):
        host, port = self.daemon.listen.rsplit(":", 1)
        s3, pid = self.daemon.s3(signature_version="s3v4"), self.daemon.folder / "pid"
        s3.create_bucket(Bucket="slow")
        target = s3.generate_presigned_url("put_object", {"Bucket": "slow", "Key": "k"}).removeprefix(self.daemon.endpoint)
        with socket.create_connection((host, int(port)), 60) as slow:
            slow.sendall(f"PUT {target} HTTP/1.1\r\nHost: {self.daemon.listen}\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n".encode())
            self.assertIn(b"100 Continue", slow.recv(100))
            self.daemon.process.terminate()
            self.assertTrue(wait_until(lambda: socket.socket().connect_ex((host, int(port)))))
            self.assertTrue(pid.exists() and self.daemon.process.poll() is None)
            slow.sendall(b"object")
            self.assertIn(b"200 OK", slow.recv(100))
        self.daemon.process.wait(60)
        self.assertFalse(pid.exists())

    def end_restarted(self):
        """The restart command's daemon is no child of ours."""
        path = self.daemon.folder / "pid"
        if not path.exists(): # it did not come back, which the test says itself
            return
        pid = int(path.read_text())
        os.kill(pid, 15)
        self.assertTrue(wait_until(lambda: not pathlib.Path(f"/proc/{pid}").exists()))

    def test_the_restart_command_restarts_on_the_same_port(self):
        code, out, err = run(self.daemon.env["HARDPLATE_RESTART"])
        self.assertEqual(code, 0, err)
        try:
            self.daemon.process.wait(60)
            self.assertEqual(self.daemon.admin("GET", "kms/status")[0], 200)
            self.assert_private()
        finally:
            self.end_restarted()

    def test_the_restart_command_ends_no_other_process(self):
        self.daemon.stop(kill=True)
        with subprocess.Popen(["sleep", "100"]) as other:
            (self.daemon.folder / "pid").write_text(f"{other.pid}\n")
            code, out, err = run(self.daemon.env["HARDPLATE_RESTART"])
            self.addCleanup(self.end_restarted)
            is_alive = other.poll() is None
            other.kill()
        self.assertEqual((code, is_alive), (0, True), err)
        self.assertEqual(self.daemon.admin("GET", "kms/status")[0], 200)

    def test_off_loopback_without_tls_no_key_and_no_credential_goes_through(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # sends nothing; tells this machine's own address
                own = probe.getsockname()[0]
            except OSError:
                own = "127.0.0.1"
        if own.startswith("127."):
            self.skipTest("this machine has no address off loopback")
        blob = self.daemon.admin("POST", "kms/generate-data-key", {})[1]["ciphertext_blob"]
        self.daemon.stop()
        self.daemon.start(own + ":0")
        vault = {"backend_type": "vault", "address": "https://127.0.0.1:1"}
        refused = [("POST", "kms/generate-data-key", {}), ("POST", "kms/generate-data-keys", {"count": 1}), ("POST", "kms/decrypt", {"ciphertext_blob": blob}),
                   ("GET", "kms/keys/import-parameters", None), ("POST", "kms/keys/import", {"key_id": "i", "encrypted_key_material": "AA=="})]
        for method in ({"token": "s.x"}, {"Token": {"token": "s.x"}}, {"approle": {"role_id": "r", "secret_id": "s"}}):
            refused += [("POST", "kms/reconfigure", {**vault, "auth_method": method}), ("POST", "kms/configure", {**vault, "auth_method": method})]
        refused += [("POST", "kms/reconfigure", {**vault, "vault_token": "s.x"})]
        for method, path, body in refused:
            code, answer, _ = self.daemon.admin(method, path, body)
            self.assertEqual(code, 400, (path, answer))
            self.assertIn("use TLS", answer["message"], path)
        self.assertEqual(self.daemon.admin("POST", "kms/rewrap", {"ciphertext_b64": blob})[0], 200, "no plaintext in it")
        self.assertEqual(self.daemon.admin("POST", "kms/reconfigure", {"cache_ttl_seconds": 77})[0], 200)
        code, answer, _ = self.daemon.admin("POST", "kms/reconfigure", {**vault, "auth_method": {"approle": {"role_id": "r", "secret_id": ""}}})
        self.assertNotIn("use TLS", answer["message"], "a blank secret is none")

    def test_a_second_daemon_on_the_folder_is_refused(self):
        code, out, err = run(BIN / "hardplated", "--dev", self.daemon.folder, "--listen", "127.0.0.1:0")
        self.assertEqual(code, 1)
        self.assertIn("in use by another hardplated", err)
        self.assertEqual(self.daemon.admin("GET", "kms/status")[0], 200)

    def test_check_passes_on_a_good_folder_and_names_the_port(self):
        code, out, err = run(BIN / "hardplated", "--dev", self.daemon.folder, "--listen", self.daemon.listen, "--check")
        self.assertEqual(code, 1, out)
        self.assertEqual([line.split()[1] for line in out.splitlines() if line.startswith("FAIL")], ["listener"], out)
        self.assertIn("IV mode", out)
        code, out, err = run(BIN / "hardplated", "--dev", self.daemon.folder, "--listen", "127.0.0.1:0", "--check")
        self.assertEqual(code, 0, out + err)


class Descriptors(unittest.TestCase):
    def daemon(self, soft, hard):
        daemon = Daemon(backend="none", prefix=("prlimit", f"--nofile={soft}:{hard}"))
        self.addCleanup(daemon.remove)
        return daemon

    def test_there_are_enough_for_the_connections_where_the_limit_may_be_raised(self):
        if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 6000:
            self.skipTest("the hard limit of open files is below 6000 here")
        soft, _ = resource.prlimit(self.daemon(200, 6000).process.pid, resource.RLIMIT_NOFILE)
        self.assertGreaterEqual(soft, 4096 + 256)

    def test_idle_connections_leave_some_for_objects(self):
        daemon = self.daemon(200, 200)
        self.assertIn("http.fewer_connections", daemon.log_text())
        s3 = daemon.s3()
        s3.create_bucket(Bucket="box") # and its connection stays
        host, port = daemon.listen.split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(250)]
        try:
            for _ in range(20):
                s3.put_object(Bucket="box", Key="o", Body=b"x")
                self.assertEqual(s3.get_object(Bucket="box", Key="o")["Body"].read(), b"x")
        finally:
            for one in idle:
                one.close()


class DefaultKeyOfTheEnvironment(unittest.TestCase):
    def test_it_is_the_default_key_where_the_configuration_names_none(self):
        with unittest.mock.patch.dict(os.environ, {"RUSTFS_KMS_DEFAULT_KEY_ID": "of-the-environment"}):
            daemon = Daemon(backend="none")
            self.addCleanup(daemon.remove)
            daemon.admin("POST", "kms/configure", {"backend_type": "local"})
            daemon.admin("POST", "kms/start")
            self.assertEqual(daemon.admin("GET", "kms/config")[1]["default_key_id"], "of-the-environment")
            self.assertEqual(daemon.admin("POST", "kms/generate-data-key", {})[1]["key_id"], "of-the-environment")
            self.assertEqual(daemon.admin("POST", "kms/reconfigure", {"default_key_id": "of-the-body"})[0], 200)
            self.assertEqual(daemon.admin("POST", "kms/generate-data-key", {})[1]["key_id"], "of-the-body")
            daemon.stop()
        with unittest.mock.patch.dict(os.environ, {"RUSTFS_KMS_DEFAULT_KEY_ID": " "}), self.assertRaises(RuntimeError):
            daemon.start(daemon.listen)
        self.assertIn("RUSTFS_KMS_DEFAULT_KEY_ID", daemon.log_text().splitlines()[-1])


class FirstErrors(unittest.TestCase):
    """One line on standard error that says what and what to do; exit status 1; no secret in it."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hpl-errors-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def one_line(self, args, *wanted, env=None, prefix=()):
        code, out, err = run(*prefix, BIN / "hardplated", *args, env=env)
        lines = [line for line in err.splitlines() if not line.startswith("{")]
        self.assertEqual(code, 1, out + err)
        self.assertEqual(len(lines), 1, err)
        self.assertTrue(lines[0].startswith("hardplated: "), err)
        for word in wanted:
            self.assertIn(word, lines[0])
        return lines[0]

    def test_a_port_that_is_taken(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.one_line(["--dev", self.folder / "d", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"], "listen")

    @unittest.skipUnless(shutil.which("softhsm2-util"), "softhsm2 is not installed")
    def test_a_folder_that_softhsm_cannot_be_told_of(self):
        for name in ("a#b", "a\nb"):
            self.one_line(["--dev", self.folder / name, "--listen", "127.0.0.1:0"], "choose another")

    def test_what_is_no_address(self):
        for listen in ("127.0.0.1", "127.0.0.1:", ":0", "127.0.0.1:-1", "127.0.0.1:65536", "127.0.0.1:99999", "127.0.0.1:1x", "127.0.0.1:http"):
            self.one_line(["--dev", self.folder / "d", "--listen", listen, "--backend", "none"], "HOST:PORT", listen)

    def test_a_wrong_pin(self):
        daemon = Daemon(folder=self.folder / "d")
        daemon.stop()
        pin = self.folder / "d/token/pin"
        right = pin.read_text()
        pin.write_text("the-wrong-pin")
        code, out, err = run(BIN / "hardplated", "--dev", self.folder / "d", "--listen", "127.0.0.1:0", "--check")
        self.assertEqual(code, 1)
        failed = [line for line in out.splitlines() if line.startswith("FAIL")]
        self.assertEqual(len(failed), 1, out)
        self.assertIn("PIN", failed[0])
        self.assertNotIn("the-wrong-pin", out)
        daemon.start()
        status = daemon.admin("GET", "kms/status")[1]
        self.assertIn(status["status"], ("Error", "Configured"))
        self.assertFalse(status["healthy"])
        daemon.stop()
        pin.write_text(right)
        daemon.start()
        self.assertEqual(daemon.admin("POST", "kms/start")[1]["status"], "Running")
        daemon.remove()

    def test_a_wrong_pin_at_the_first_start_leaves_nothing_behind(self):
        daemon = Daemon(folder=self.folder / "d", backend="none")
        daemon.stop()
        pin = self.folder / "d/token/pin"
        right = pin.read_text()
        pin.write_text("the-wrong-pin")
        said = self.one_line(["--dev", self.folder / "d", "--listen", "127.0.0.1:0"], "PIN")
        self.assertNotIn("the-wrong-pin", said)
        pin.write_text(right)
        daemon.backend = "pkcs11"
        daemon.start()
        self.assertEqual(daemon.admin("GET", "kms/status")[1]["status"], "Running", "mended, it runs")
        daemon.remove()

    def test_no_memory_lock(self):
        if os.geteuid() == 0:
            prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "prlimit", "--memlock=65536:65536")
            os.chmod(self.folder, 0o777)
        else:
            prefix = ("prlimit", "--memlock=65536:65536")
        self.one_line(["--dev", self.folder / "d", "--listen", "127.0.0.1:0", "--backend", "none"], "lock", "ulimit -l", prefix=prefix)

    def test_a_state_folder_that_others_can_change(self):
        state = self.folder / "d"
        state.mkdir(mode=0o700)
        for mode in (0o720, 0o702):
            state.chmod(mode)
            self.one_line(["--dev", state, "--listen", "127.0.0.1:0", "--backend", "none"], str(state), "chmod")
            self.assertEqual(list(state.iterdir()), [])
        state.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(state, 65534, 65534)
            self.one_line(["--dev", state, "--listen", "127.0.0.1:0", "--backend", "none"], str(state), "chown")
            self.assertIn("chown", self.checked(f"state_dir: {state}\n"))

    def test_a_data_folder_that_another_daemon_has(self):
        daemon = Daemon(folder=self.folder / "d", backend="none")
        path = self.folder / "c.yaml"
        path.write_text(f"state_dir: {self.folder}/other\ndata_dir: {self.folder}/d/data\nlisten: 127.0.0.1:0\n")
        self.one_line(["--config", path], str(self.folder / "d/data"), "in use by another hardplated")
        daemon.remove()

    def test_objects_may_lie_in_the_state_folder_itself(self):
        path = self.folder / "c.yaml"
        path.write_text(f"state_dir: {self.folder}/one\ndata_dir: {self.folder}/one\nlisten: 127.0.0.1:0\n")
        process = subprocess.Popen([str(BIN / "hardplated"), "--config", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            self.assertIsNotNone(told_endpoint(process))
            self.one_line(["--config", path], str(self.folder / "one"), "in use by another hardplated")
            path.write_text(f"state_dir: {self.folder}/other\ndata_dir: {self.folder}/one\nlisten: 127.0.0.1:0\n")
            self.one_line(["--config", path], str(self.folder / "one"), "in use by another hardplated")
        finally:
            process.terminate()
            self.assertEqual(process.wait(60), 0)
            process.stdout.close()

    def test_a_link_in_the_data_folder_leads_to_no_other_folder(self):
        daemon = Daemon(folder=self.folder / "d", backend="none")
        daemon.stop()
        others = self.folder / "others"
        others.mkdir()
        kept = others / ("ab" * 16)
        kept.touch()
        for name in ("tmp", "objects/00", "objects"):
            place = self.folder / "d/data" / name
            place.rename(self.folder / "aside")
            place.symlink_to(others)
            self.one_line(["--dev", self.folder / "d", "--listen", "127.0.0.1:0"], str(place), "symbolic link")
            self.assertTrue(kept.exists(), f"a start removed what lay behind {name}")
            place.unlink()
            (self.folder / "aside").rename(place)

    def test_a_bad_configuration_file(self):
        path = self.folder / "c.yaml"
        for text, word in (("state_dir: /x\nlistne: 1\n", "listne"), ("listen: x\n", "state_dir"), ("state_dir: relative\n", "absolute"),
                           ("state_dir: [1]\n", ""), ("state_dir: /x\nroot: {file: /a, credential: b}\n", "takes one of"),
                           ("state_dir: /x\nhttp: {head_seconds: 3601}\n", "3600 seconds"), ("state_dir: /x\nhttp: {max_queued: -1}\n", "max_queued"),
                           ("state_dir: /x\nhttp: {handshake_seconds: 3601}\n", "3600 seconds"), ("state_dir: /x\ntls: {certificate: /c, key: /k, min_version: 1.1}\n", "1.2 or 1.3")):
            path.write_text(text)
            self.one_line(["--config", path], word)
        self.one_line(["--config", self.folder / "nothing.yaml"], "nothing.yaml")

    def test_an_empty_configuration_file(self):
        for text in ("", "# nothing yet\n"):
            path = self.folder / "c.yaml"
            path.write_text(text)
            self.one_line(["--config", path], "c.yaml is empty")

    def test_a_lost_root_secret_is_never_replaced(self):
        daemon = Daemon(folder=self.folder / "d", backend="local")
        daemon.stop()
        (self.folder / "d/root.key").unlink()
        self.one_line(["--dev", self.folder / "d", "--listen", "127.0.0.1:0"], "root.key", "missing")
        (self.folder / "d/root.key").write_bytes(b"\1" * 32)
        os.chmod(self.folder / "d/root.key", 0o600)
        self.one_line(["--dev", self.folder / "d", "--listen", "127.0.0.1:0"], "root secret")

    def checked(self, configuration):
        """What --check says FAIL to, and that a start says the same in one line."""
        path = self.folder / "checked.yaml"
        path.write_text(configuration)
        code, out, err = run(BIN / "hardplated", "--config", path, "--listen", "127.0.0.1:0", "--check")
        failed = [line for line in out.splitlines() if line.startswith("FAIL")]
        self.assertEqual((code, len(failed)), (1, 1), out + err)
        self.one_line(["--config", path, "--listen", "127.0.0.1:0"], failed[0].split("  ", 2)[2].split(maxsplit=2)[-1][-40:])
        return failed[0]

    def test_check_finds_a_lost_root_secret(self):
        state = self.folder / "state"
        state.mkdir(mode=0o700)
        (state / "catalog.db").touch(mode=0o600)
        self.assertIn("root.key is missing but a catalog is there", self.checked(f"state_dir: {state}\n"))
        secret = self.folder / "passphrase"
        secret.write_text("correct horse battery staple\n")
        secret.chmod(0o400)
        self.assertIn("root.kdf is missing but a catalog is there", self.checked(f"state_dir: {state}\nroot: {{passphrase_file: {secret}}}\n"))

    def test_check_finds_a_kms_section_that_no_start_takes(self):
        for section, word in (("backend_type: nope", "nope"), ("backend_type: local, timeout_seconds: -1", "timeout_seconds")):
            self.assertIn(word, self.checked(f"state_dir: {self.folder}/fresh\nkms: {{{section}}}\n"), section)
        with unittest.mock.patch.dict(os.environ, {"RUSTFS_KMS_DEFAULT_KEY_ID": " blank "}):
            self.assertIn("RUSTFS_KMS_DEFAULT_KEY_ID", self.checked(f"state_dir: {self.folder}/fresh\n"))

    def test_check_is_content_with_a_kms_section_of_each_backend(self):
        path = self.folder / "kms.yaml"
        vaults = "vaults: [{name: main, address: 'http://127.0.0.1:1', allow_http: true, token_file: /dev/null}]\n"
        for name, more in (("local", ""), ("vault", ", vault: main, auth_method: token_file")):
            path.write_text(f"state_dir: {self.folder}/fresh\nlisten: 127.0.0.1:0\n{vaults}kms: {{backend_type: {name}{more}}}\n")
            code, out, err = run(BIN / "hardplated", "--config", path, "--check")
            self.assertEqual((code, err), (0, ""), out)
            self.assertRegex(out, rf"(?m)^ok +kms +{name}$")
        path.write_text(f"state_dir: {self.folder}/fresh\nlisten: 127.0.0.1:0\nkms: {{backend_type: pkcs11, token: main}}\n")
        code, out, err = run(BIN / "hardplated", "--config", path, "--check")
        self.assertEqual((code, err), (1, ""), out)
        self.assertRegex(out, r"(?m)^FAIL +kms +'token' is not one of the tokens")

    def test_check_finds_a_tls_key_that_is_none_or_anothers(self):
        for name in ("one", "two"):
            run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=localhost",
                "-keyout", self.folder / f"{name}.key", "-out", self.folder / f"{name}.pem")
        (self.folder / "no.key").write_text("this is no PEM\n")
        for key in ("two.key", "no.key"):
            self.assertIn("TLS", self.checked(f"state_dir: {self.folder}/state\ntls: {{certificate: {self.folder}/one.pem, key: {self.folder}/{key}}}\n"), key)

    def test_usage(self):
        for args in ([], ["--dev"], ["--dev", "x", "--config", "y"], ["--dev", "x", "--backend", "z"], ["--dev", "x", "--listen", "unix:/tmp/x"], ["--nonsense"], ["extra"]):
            code, out, err = run(BIN / "hardplated", *args)
            self.assertEqual((code, len(err.splitlines())), (2, 1), args)
        code, out, err = run(BIN / "hardplated", "--help")
        self.assertEqual((code, err), (0, ""))


class FromAFile(unittest.TestCase):
    def test_a_daemon_from_a_yaml_file_serves_tls(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="hpl-yaml-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem")
        for name, text in (("root.key", "ab" * 32 + "\n"), ("ops.secret", "s" * 40 + "\n")):
            (folder / name).write_text(text)
            os.chmod(folder / name, 0o400)
        (folder / "c.yaml").write_text(f"""
state_dir: {folder}/state
listen: 127.0.0.1:0
tls: {{certificate: {folder}/cert.pem, key: {folder}/key.pem}}
root: {{file: {folder}/root.key, require_external: true}}
http: {{max_connections: 9, head_seconds: 1}}
credentials:
  - {{access_key: ops, secret_file: {folder}/ops.secret, role: admin}}
kms: {{backend_type: local, default_key_id: app-default}}
""")
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen([str(BIN / "hardplated"), "--config", str(folder / "c.yaml")], stdout=subprocess.PIPE, stderr=log)
        try:
            endpoint = told_endpoint(process)
            self.assertRegex(endpoint, r"^https://127\.0\.0\.1:[1-9]\d+$")
            env = {"HARDPLATE_ENDPOINT": endpoint, "HARDPLATE_ACCESS_KEY": "ops", "HARDPLATE_SECRET_KEY": "s" * 40,
                   "HARDPLATE_CA_FILE": str(folder / "cert.pem")}
            code, out, err = run(BIN / "hardplate", "--json", "status", env=env)
            self.assertEqual((code, json.loads(out)["status"]), (0, "Running"), err)
            import boto3
            from botocore.config import Config
            s3 = boto3.client("s3", endpoint_url=env["HARDPLATE_ENDPOINT"], region_name="us-east-1", aws_access_key_id="ops",
                              aws_secret_access_key="s" * 40, verify=str(folder / "cert.pem"), config=Config(s3={"addressing_style": "path"}))
            s3.create_bucket(Bucket="tls")
            body = os.urandom(3_000_000)
            key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
            s3.put_object(Bucket="tls", Key="c", Body=body, **key)
            self.assertEqual(s3.get_object(Bucket="tls", Key="c", **key)["Body"].read(), body)
            self.assertEqual([row["Key"] for row in s3.delete_objects(Bucket="tls", Delete={"Objects": [{"Key": "c"}]})["Deleted"]], ["c"])
            with socket.create_connection(("127.0.0.1", int(endpoint.rsplit(":", 1)[1]))) as idle: # says nothing: its second is soon over
                idle.settimeout(60)
                self.assertEqual(idle.recv(1), b"")
        finally:
            process.terminate()
            self.assertEqual(process.wait(30), 0)
            process.stdout.close()


    def test_a_credential_that_was_taken_out_of_the_file_is_refused(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="hpl-revoked-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        for name in ("ops", "former"):
            (folder / name).write_text(name[0] * 40)
            os.chmod(folder / name, 0o400)

        def statuses(*listed):
            rows = "".join(f"  - {{access_key: {name}, secret_file: {folder}/{name}, role: admin}}\n" for name in listed)
            (folder / "c.yaml").write_text(f"state_dir: {folder}/state\nlisten: 127.0.0.1:0\ncredentials:\n{rows}")
            process = subprocess.Popen([str(BIN / "hardplated"), "--config", str(folder / "c.yaml")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            try:
                endpoint = told_endpoint(process)
                return [run(BIN / "hardplate", "status", env={"HARDPLATE_ENDPOINT": endpoint, "HARDPLATE_ACCESS_KEY": name,
                                                              "HARDPLATE_SECRET_KEY": name[0] * 40})[0] for name in ("ops", "former")]
            finally:
                process.terminate()
                self.assertEqual(process.wait(30), 0)
                process.stdout.close()

        self.assertEqual(statuses("ops", "former"), [0, 0])
        self.assertEqual(statuses("ops"), [0, 3])
        self.assertEqual(statuses("ops", "former"), [0, 0])


class CommandLine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.remove()

    def cli(self, *args, env_file=True, stdin=None, **env):
        given = ["--env", self.daemon.folder / "env"] if env_file else []
        return run(BIN / "hardplate", *given, *args, env={"PATH": os.environ["PATH"], **env}, stdin=stdin)

    def test_the_first_commands_work(self):
        code, out, err = self.cli("status")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("Running", out)
        self.assertEqual(json.loads(self.cli("--json", "status")[1])["status"], "Running")
        self.assertEqual(self.cli("keys", "create", "--name", "cli-key", "--description", "from the shell")[0], 0)
        self.assertIn("cli-key", self.cli("keys", "list")[1])
        self.assertEqual(json.loads(self.cli("keys", "describe", "cli-key", "--json")[1])["key_metadata"]["description"], "from the shell")
        made = json.loads(self.cli("data-key", "--key", "cli-key", "--context", "a=b", "--json")[1])
        code, out, err = self.cli("decrypt", "--context", "a=b", "--json", "-", stdin=made["ciphertext_blob"] + "\n")
        self.assertEqual((code, json.loads(out)["plaintext_key"]), (0, made["plaintext_key"]), err)

    def test_exit_codes_say_what_happened(self):
        self.assertEqual(self.cli("keys", "describe", "nobody")[0], 1)
        for args in (["nonsense"], ["keys"], ["keys", "describe"], ["data-key", "--context", "x"], []):
            self.assertEqual(self.cli(*args)[0], 2, args)
        self.assertEqual(run(BIN / "hardplate", "status", env={"PATH": os.environ["PATH"]})[0], 2)
        user = {"HARDPLATE_ENDPOINT": self.daemon.endpoint, "HARDPLATE_ACCESS_KEY": self.daemon.env["HARDPLATE_USER_ACCESS_KEY"],
                "HARDPLATE_SECRET_KEY": self.daemon.env["HARDPLATE_USER_SECRET_KEY"]}
        self.assertEqual(self.cli("status", env_file=False, **user)[0], 3)
        self.assertEqual(self.cli("status", env_file=False, **{**user, "HARDPLATE_SECRET_KEY": "x" * 40})[0], 3)
        self.assertEqual(self.cli("status", env_file=False, **{**user, "HARDPLATE_ENDPOINT": "http://127.0.0.1:9"})[0], 4)
        code, out, err = self.cli("decrypt", "AAAA")
        self.assertEqual((code, len(err.splitlines())), (1, 1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
