"""Does a sub-command of hardplate-bench write one JSON object with the promised fields, and a plot that is XML? Never how fast.
Is a peer that lies left out, and is another stored format given its turn? Usage: bench_json.py PROGRAM SUB-COMMAND, with HPL_BENCH_PEERS and
HPL_BENCH_STORED naming the two fakes."""
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

FIELDS = {"op": str, "impl": str, "size": int, "threads": int, "gbps": float, "cycles_per_64b": float, "ns_per_op": float}
OPS = {"hash": {"md5", "sha256", "crc32", "crc32c", "crc64nvme"}}


def check(program, command, plot):
    ran = subprocess.run([program, command, "--quick", "--json", "--plot", plot], check=True, capture_output=True, text=True, timeout=120)
    told = json.loads(ran.stdout)
    assert told["command"] == command and told["cpu"] and told["kernel"], told
    assert told["limit_cycles_per_64b"] is None or told["limit_cycles_per_64b"] > 0, told
    assert {row["op"] for row in told["rows"]} == OPS.get(command, {"seal", "open"}), told
    for row in told["rows"]:
        assert {name: type(value) for name, value in row.items()} == FIELDS, row
        assert row["size"] > 0 and row["threads"] > 0 and row["gbps"] >= 0 and row["ns_per_op"] > 0, row
    assert any(row["impl"].split(":")[0].startswith("hardplate") for row in told["rows"]), told
    keys = [(row["op"], row["impl"], row["size"], row["threads"]) for row in told["rows"]]
    assert len(keys) == len(set(keys)), "a row came twice"
    if command == "gcm":
        assert "liar:1" not in {row["impl"] for row in told["rows"]} and "fails its known answer" in ran.stderr, "a peer that lies is believed"
    if command == "seal":
        assert all(row["gbps"] == 1 for row in told["rows"] if row["impl"] == "slow:1"), told
        assert "slow:1" in {row["impl"] for row in told["rows"]}, told
    size = 4 << 20 if command == "workers" else 100
    for options in (["--sizes", str(size), "--quick"], ["--quick", "--sizes", str(size)]):
        ran = subprocess.run([program, command, "--json", *options], check=True, capture_output=True, timeout=120)
        assert {row["size"] for row in json.loads(ran.stdout)["rows"] if not row["impl"].startswith("hardplate-split")} == {size}, options
    with open("/dev/full", "w") as full:
        assert subprocess.run([program, command, "--quick"], stdout=full, stderr=subprocess.PIPE, timeout=120).returncode == 1, "a table that did not arrive"
    svg = xml.etree.ElementTree.parse(plot).getroot()
    text = " ".join(node.text or "" for node in svg.iter("{http://www.w3.org/2000/svg}text"))
    for impl in {row["impl"] for row in told["rows"]}:
        assert impl in text, f"the plot has no line named {impl}"


KMS_FIELDS = {
    (): {"op": str, "impl": str, "threads": int, "keys": int, "sessions": int, "latency_ms": int, "ops_per_s": float, "p50_us": float, "p99_us": float, "failures": int},
    ("--http",): {"op": str, "impl": str, "transport": str, "batch": int, "connections": int, "requests_per_s": float, "keys_per_s": float, "p50_us": float,
                  "p99_us": float, "p99_half_us": float, "server_cpu_us_per_key": float, "failures": int},
    ("--reconfigure",): {"op": str, "impl": str, "connections": int, "requests_per_s": float, "p50_us": float, "p99_us": float, "switches": int, "failures": int},
}


def check_kms(program):
    """Peers are servers of minutes to build: a row of theirs is asked for nowhere here."""
    for options, fields in KMS_FIELDS.items():
        ran = subprocess.run([program, "kms", "--quick", "--json", *options], check=True, capture_output=True, text=True, timeout=300,
                             env={name: value for name, value in os.environ.items() if not name.startswith("HPL_BENCH_")})
        told = json.loads(ran.stdout)
        assert told["command"] == "kms" and told["cpu"] and told["rows"], told
        for row in told["rows"]:
            assert {name: type(value) for name, value in row.items()} == fields, row
            assert row["failures"] == 0 and 0 < row["p50_us"] <= row["p99_us"] and row.get("ops_per_s", row.get("requests_per_s")) > 0, row
        keys = [tuple(row.get(name) for name in ("op", "impl", "transport", "batch", "threads")) for row in told["rows"]]
        assert len(keys) == len(set(keys)), "a row came twice"
        if options != ("--reconfigure",):
            impls = {row["impl"].split(":")[-1] for row in told["rows"]}
            assert "local" in impls and ("softhsm" in impls or "softhsm left out" in ran.stderr), impls
        else:
            assert told["rows"][0]["switches"] == 0 < told["rows"][1]["switches"], told
    for wrong in (["--threads", "0"], ["--only", "nobody"], ["--only", "local,nobody"], ["--only", ""]):
        assert subprocess.run([program, "kms", "--quick", *wrong], capture_output=True).returncode == 2, wrong


with tempfile.TemporaryDirectory() as folder:
    if sys.argv[2] == "kms":
        check_kms(sys.argv[1])
    else:
        check(*sys.argv[1:], os.path.join(folder, "plot.svg"))
