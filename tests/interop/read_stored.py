#!/usr/bin/env python3
"""Reads hardplate's stored form from docs/formats.md alone: it shares no code with hardplate.

read_stored.py vectors DIR     checks every DIR/*.json
read_stored.py open KEY SALT BUCKET OBJECT INSTANCE PART LEN   (hex but BUCKET, OBJECT, PART, LEN) opens stdin to stdout
read_stored.py file KEY [NAME=VALUE]...   (KEY hex: the data key) opens a sealed file from stdin to stdout
"""
import ctypes, ctypes.util, glob, hashlib, hmac, json, struct, sys

crypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
crypto.EVP_CIPHER_CTX_new.restype = crypto.EVP_aes_256_gcm.restype = ctypes.c_void_p


def gcm_open(key, nonce, aad, text, tag):
    ctx, n, out = ctypes.c_void_p(crypto.EVP_CIPHER_CTX_new()), ctypes.c_int(), ctypes.create_string_buffer(len(text) + 16)
    crypto.EVP_DecryptInit_ex(ctx, ctypes.c_void_p(crypto.EVP_aes_256_gcm()), None, key, nonce)
    crypto.EVP_DecryptUpdate(ctx, None, ctypes.byref(n), aad, len(aad))
    crypto.EVP_DecryptUpdate(ctx, out, ctypes.byref(n), text, len(text))
    crypto.EVP_CIPHER_CTX_ctrl(ctx, 0x11, 16, tag)
    right = crypto.EVP_DecryptFinal_ex(ctx, ctypes.byref(ctypes.create_string_buffer(16)), ctypes.byref(n))
    crypto.EVP_CIPHER_CTX_free(ctx)
    assert right == 1, "the tag is not right"
    return out.raw[:len(text)]


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def hkdf(key, salt, info, length):
    prk, out, block = mac(salt, key), b"", b""
    while len(out) < length:
        block = mac(prk, block + info + bytes([len(out) // 32 + 1]))
        out += block
    return out[:length]


def part_secrets(key, salt, bucket, name, instance, number):
    info = b"hpl-part-v1" + struct.pack(">H", len(bucket)) + bucket + struct.pack(">I", len(name)) + name + instance
    out = hkdf(key, salt, info + struct.pack(">I", number), 76)
    return out[:32], out[32:64], bytes([out[64] & 0x7F]) + out[65:76]


def header(nonce, length, is_final):
    return struct.pack("<BBH", 0x20, 0, length - 1) + bytes([nonce[0] | (0x80 if is_final else 0)]) + nonce[1:]


def package_nonce(head, number):
    return head[4:12] + struct.pack("<I", struct.unpack("<I", head[12:16])[0] ^ number)


def open_part(package_key, nonce, stored, length):
    plain, count = b"", (length + 65535) // 65536
    for number in range(count):
        n = min(65536, length - len(plain))
        package, stored = stored[:n + 32], stored[n + 32:]
        head = header(nonce, n, number + 1 == count)
        assert package[:16] == head, "package %d has another header" % number
        plain += gcm_open(package_key, package_nonce(head, number), head[:4], package[16:-16], package[-16:])
    assert len(plain) == length and not stored, "the part has another length"
    return plain


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, n):
        assert n <= len(self.data), "the manifest is too short"
        out, self.data = self.data[:n], self.data[n:]
        return out

    def num(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def pairs(self):
        pairs = [(self.take(self.num(">I")), self.take(self.num(">I"))) for _ in range(self.num(">I"))]
        assert [name for name, _ in pairs] == sorted({name for name, _ in pairs}), "names are not sorted or come twice"
        return {name.decode(): value.decode() for name, value in pairs}


def read_manifest(data):
    r, m = Reader(data), {}
    assert r.take(4) == b"HPM1"
    m["mode"], flags = r.num(">B"), r.num(">B")
    assert m["mode"] <= 3 and flags <= 1
    m["is_multipart"], m["instance"] = bool(flags), r.take(16).hex()
    m["bucket"], m["object"] = r.take(r.num(">H")).decode(), r.take(r.num(">H")).decode()
    m["modified_ms"], m["size"] = r.num(">q"), r.num(">Q")
    m["parts"] = [{"number": r.num(">I"), "len": r.num(">Q"), "salt": r.take(32).hex(), "commitment": r.take(32).hex()}
                  for _ in range(r.num(">I"))]
    assert m["size"] == sum(part["len"] for part in m["parts"])
    m["context"], m["metadata"] = r.pairs(), r.pairs()
    m["sealed"] = r.take(r.num(">I")).hex()
    assert not r.data, "bytes behind the manifest"
    return m


def open_file(key, data, context=()):
    """What `hardplate seal` wrote, opened under its data key (32 bytes) and context (pairs of text)."""
    r = Reader(data)
    assert r.take(4) == b"HPF1", "not a sealed file"
    source, envelope = r.num(">B"), r.take(r.num(">H"))
    assert (source, bool(envelope)) in ((1, False), (2, True))
    instance, salt, commitment = r.take(16), r.take(32), r.take(32)
    mac_key, header_mac = hkdf(key, instance, b"hpl-manifest-v1", 32), mac(hkdf(key, instance, b"hpl-manifest-v1", 32), data[:len(data) - len(r.data)])
    assert r.take(32) == header_mac, "the header's MAC is not right"
    name = b"".join(struct.pack(">I", len(part)) + part for pair in sorted((n.encode(), v.encode()) for n, v in context) for part in pair)
    package_key, right, nonce = part_secrets(key, salt, b"", name, instance, 1)
    assert commitment == right, "the commitment is not right"
    stored, trailer = r.data[:-32], r.data[-32:]
    length = len(stored) - 32 * ((len(stored) + 65567) // 65568)
    assert trailer == mac(mac_key, b"hpl-file-end-v1" + header_mac + struct.pack(">Q", length)), "the trailer is not right"
    return open_part(package_key, nonce, stored, length)


def test_plain(number, length):
    return bytes((7 * i + number) & 0xFF for i in range(length))


def check_vector(v):
    key, instance = bytes.fromhex(v["key"]), bytes.fromhex(v["instance"])
    manifest = bytes.fromhex(v["manifest"])
    assert hkdf(key, instance, b"hpl-manifest-v1", 32).hex() == v["manifest_key"]
    assert mac(bytes.fromhex(v["manifest_key"]), manifest).hex() == v["mac"]
    m = read_manifest(manifest)
    for name in ("mode", "is_multipart", "instance", "bucket", "object", "modified_ms", "size", "context", "metadata", "sealed"):
        assert m[name] == v[name], name
    for part, want in zip(m["parts"], v["parts"], strict=True):
        assert all(part[name] == want[name] for name in part)
        stored = bytes.fromhex(want["stored"])
        if v["mode"] != 0:
            package_key, commitment, nonce = part_secrets(key, bytes.fromhex(part["salt"]), v["bucket"].encode(), v["object"].encode(),
                                                          instance, part["number"])
            assert (package_key.hex(), commitment.hex(), nonce.hex()) == (want["package_key"], part["commitment"], want["nonce"])
            stored = open_part(package_key, nonce, stored, part["len"])
        assert stored == test_plain(part["number"], part["len"])
    fields_key = hkdf(key, instance, b"hpl-fields-v1", 32)
    assert fields_key.hex() == v["fields_key"]
    for field in v["fields"]:
        sealed = bytes.fromhex(field["sealed"])
        assert gcm_open(fields_key, sealed[:12], field["label"].encode(), sealed[12:-16], sealed[-16:]).decode() == field["plain"]


if __name__ == "__main__":
    if sys.argv[1] == "vectors":
        paths = sorted(glob.glob(sys.argv[2] + "/*.json"))
        assert paths, "no vectors in " + sys.argv[2]
        for path in paths:
            check_vector(json.load(open(path)))
        print("%d vectors read" % len(paths))
    elif sys.argv[1] == "file":
        context = [tuple(pair.split("=", 1)) for pair in sys.argv[3:]]
        sys.stdout.buffer.write(open_file(bytes.fromhex(sys.argv[2]), sys.stdin.buffer.read(), context))
    else:
        data_key, salt, instance = (bytes.fromhex(sys.argv[i]) for i in (2, 3, 6))
        key, _, nonce = part_secrets(data_key, salt, sys.argv[4].encode(), sys.argv[5].encode(), instance, int(sys.argv[7]))
        sys.stdout.buffer.write(open_part(key, nonce, sys.stdin.buffer.read(), int(sys.argv[8])))
