"""Reads envelopes by docs/formats-envelope.md alone and checks tests/vectors/envelope.json. Standard library only."""
import hashlib, hmac, json, struct, sys


def read(blob):
    if len(blob) < 37 or blob[:4] != b"HPL1":
        raise ValueError("not an envelope")
    purpose, mechanism, instance, uid, version, iv_len = struct.unpack(">BB8s16sIB", blob[4:35])
    iv, rest = blob[35:35 + iv_len], blob[35 + iv_len:]
    if not 1 <= purpose <= 5 or version == 0 or iv_len > 64 or len(iv) < iv_len or len(rest) < 2:
        raise ValueError("a field is out of its bounds")
    ct_len, = struct.unpack(">H", rest[:2])
    if not 1 <= ct_len <= 768 or len(rest) != 2 + ct_len:
        raise ValueError("the ciphertext's length is wrong")
    return dict(purpose=purpose, mechanism=mechanism, instance=instance.hex(), uid=uid.hex(), version=version,
                iv=iv.hex(), ciphertext=rest[2:].hex())


def pairs_of(context):
    pairs = sorted((name.encode(), value.encode()) for name, value in context.items())
    return struct.pack(">H", len(pairs)) + b"".join(struct.pack(">H", len(name)) + name + struct.pack(">I", len(value)) + value for name, value in pairs)


def aad(blob, context):
    return hashlib.sha256(b"hpl-aad-v1" + blob[:34] + pairs_of(context)).hexdigest()


def read_bucket(blob):
    """An object's key under its bucket's key: salt, check and the bucket key's own envelope."""
    if len(blob) < 55 or blob[:5] != b"HPLB1" or struct.unpack(">H", blob[53:55])[0] != len(blob) - 55:
        raise ValueError("not an envelope under a bucket key")
    if read(blob[55:])["purpose"] != 2:
        raise ValueError("what it holds is no bucket key")
    return dict(salt=blob[5:37].hex(), check=blob[37:53].hex(), inner=blob[55:].hex())


def derive(bucket_key, salt, context):
    """HKDF-SHA256 (RFC 5869): 32 bytes of key, 16 of check."""
    info = b"hpl-bucket-key-v1" + hashlib.sha256(b"hpl-context-v1" + pairs_of(context)).digest()
    secret = hmac.digest(salt, bucket_key, "sha256")
    first = hmac.digest(secret, info + b"\x01", "sha256")
    return first, hmac.digest(secret, first + info + b"\x02", "sha256")[:16]


def check_bucket(vector):
    blob = bytes.fromhex(vector["envelope"])
    try:
        got = read_bucket(blob) | {"inner_aad": aad(blob[55:], {"bucket": vector["context"]["bucket"]})}
        key, check = derive(bytes.fromhex(vector["bucket_key"]), bytes.fromhex(got["salt"]), vector["context"])
        if check.hex() != got["check"]:
            raise ValueError("another bucket key or another context")
        got["key"] = key.hex()
    except ValueError:
        got = {"error": "InvalidCiphertext"}
    assert got.items() <= vector.items() and got.keys() | {"name", "envelope", "context", "bucket_key"} >= vector.keys(), vector["name"]


FILE = json.load(open(sys.argv[1], encoding="utf-8"))
for vector in FILE["vectors"]:
    blob = bytes.fromhex(vector["envelope"])
    try:
        got = read(blob) | {"aad": aad(blob, vector.get("context", {}))}
    except ValueError:
        got = {"error": "InvalidCiphertext"}
    assert got.items() <= vector.items() and got.keys() | {"name", "envelope", "context"} >= vector.keys(), vector["name"]
    print("agreed:", vector["name"])
for vector in FILE["bucket_vectors"]:
    check_bucket(vector)
    print("agreed:", vector["name"])
