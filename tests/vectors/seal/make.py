#!/usr/bin/env python3
"""Writes the vectors beside it, by the independent reader's primitives and OpenSSL's GCM; no code of hardplate takes part. Vectors
of a stored format are never changed, only added: run it only with a new entry in VECTORS, and see that git shows new files alone."""
import ctypes, hashlib, json, os, struct, sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "../../interop"))
import read_stored as rs


def gcm_seal(key, nonce, aad, text):
    ctx, n = ctypes.c_void_p(rs.crypto.EVP_CIPHER_CTX_new()), ctypes.c_int()
    out, tag = ctypes.create_string_buffer(len(text) + 16), ctypes.create_string_buffer(16)
    rs.crypto.EVP_EncryptInit_ex(ctx, ctypes.c_void_p(rs.crypto.EVP_aes_256_gcm()), None, key, nonce)
    rs.crypto.EVP_EncryptUpdate(ctx, None, ctypes.byref(n), aad, len(aad))
    rs.crypto.EVP_EncryptUpdate(ctx, out, ctypes.byref(n), text, len(text))
    rs.crypto.EVP_EncryptFinal_ex(ctx, ctypes.byref(ctypes.create_string_buffer(16)), ctypes.byref(n))
    rs.crypto.EVP_CIPHER_CTX_ctrl(ctx, 0x10, 16, tag)
    rs.crypto.EVP_CIPHER_CTX_free(ctx)
    return out.raw[:len(text)] + tag.raw


def fixed(name, what, length):
    return hashlib.sha512((name + " " + what).encode()).digest()[:length]


def seal_part(package_key, nonce, plain):
    out, count = b"", (len(plain) + 65535) // 65536
    for number in range(count):
        piece = plain[number * 65536:(number + 1) * 65536]
        head = rs.header(nonce, len(piece), number + 1 == count)
        out += head + gcm_seal(package_key, rs.package_nonce(head, number), head[:4], piece)
    return out


def lp(form, data):
    return struct.pack(form, len(data)) + data


def encode_pairs(pairs):
    items = sorted((name.encode(), value.encode()) for name, value in pairs.items())
    return struct.pack(">I", len(items)) + b"".join(lp(">I", name) + lp(">I", value) for name, value in items)


def encode_manifest(v):
    head = b"HPM1" + bytes([v["mode"], v["is_multipart"]]) + bytes.fromhex(v["instance"])
    head += lp(">H", v["bucket"].encode()) + lp(">H", v["object"].encode()) + struct.pack(">qQI", v["modified_ms"], v["size"], len(v["parts"]))
    parts = b"".join(struct.pack(">IQ", p["number"], p["len"]) + bytes.fromhex(p["salt"] + p["commitment"]) for p in v["parts"])
    return head + parts + encode_pairs(v["context"]) + encode_pairs(v["metadata"]) + lp(">I", bytes.fromhex(v["sealed"]))


def make_part(v, name, key, instance, number, length):
    plain = rs.test_plain(number, length)
    if v["mode"] == 0:
        return {"number": number, "len": length, "salt": "00" * 32, "commitment": "00" * 32, "stored": plain.hex()}
    salt = fixed(name, "salt %d" % number, 32)
    package_key, commitment, nonce = rs.part_secrets(key, salt, v["bucket"].encode(), v["object"].encode(), instance, number)
    return {"number": number, "len": length, "salt": salt.hex(), "package_key": package_key.hex(), "commitment": commitment.hex(),
            "nonce": nonce.hex(), "stored": seal_part(package_key, nonce, plain).hex()}


def make(name, about, mode, lengths, bucket="bucket", obj="key", context={}, metadata={"content-type": "application/octet-stream"}):
    key, instance = fixed(name, "key", 32), fixed(name, "instance", 16)
    v = {"about": about, "key": key.hex(), "mode": mode, "is_multipart": len(lengths) > 1, "instance": instance.hex(), "bucket": bucket,
         "object": obj, "modified_ms": 1767225600000, "size": sum(lengths.values()), "context": context, "metadata": metadata}
    v["parts"] = [make_part(v, name, key, instance, number, length) for number, length in lengths.items()]
    fields_key = rs.hkdf(key, instance, b"hpl-fields-v1", 32)
    sealed = b""
    v["fields_key"], v["fields"] = fields_key.hex(), []
    for label, plain in (("etag", "d41d8cd98f00b204e9800998ecf8427e"), ("x-amz-checksum-crc32c", "")):
        nonce = fixed(name, "field " + label, 12)
        one = nonce + gcm_seal(fields_key, nonce, label.encode(), plain.encode())
        v["fields"].append({"label": label, "plain": plain, "sealed": one.hex()})
        sealed += one
    v["sealed"] = sealed.hex()
    manifest_key, manifest = rs.hkdf(key, instance, b"hpl-manifest-v1", 32), encode_manifest(v)
    v["manifest_key"], v["manifest"], v["mac"] = manifest_key.hex(), manifest.hex(), rs.mac(manifest_key, manifest).hex()
    with open(os.path.join(here, name + ".json"), "w") as out:
        json.dump(v, out, indent=1, ensure_ascii=False)
        out.write("\n")


make("one-byte", "the smallest package", 1, {1: 1})
make("empty", "a sealed object of no bytes: a part without packages, whose commitment still binds the key", 3, {1: 0})
make("two-packages", "one byte more than a package", 2, {1: 65537}, context={"aws:s3:arn": "arn:aws:s3:::bucket/key"})
make("in-parts", "an upload in parts, numbers not in a row, names beyond ASCII", 2, {1: 40, 3: 17, 10000: 1}, "b\u00fccher",
     "\u65e5\u672c/x y", {"a": "1", "ab": "2", "b": ""}, {"content-type": "text/plain", "x-amz-meta-t": "\u00e9"})
make("plain", "a plain object, whose manifest is MACed under the root secret", 0, {1: 5}, metadata={})
