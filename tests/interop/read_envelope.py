"""Reads envelopes by docs/formats-envelope.md alone and checks tests/vectors/envelope.json. Standard library only."""
import hashlib, json, struct, sys


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


def aad(blob, context):
    pairs = sorted((name.encode(), value.encode()) for name, value in context.items())
    text = b"hpl-aad-v1" + blob[:34] + struct.pack(">H", len(pairs))
    for name, value in pairs:
        text += struct.pack(">H", len(name)) + name + struct.pack(">I", len(value)) + value
    return hashlib.sha256(text).hexdigest()


for vector in json.load(open(sys.argv[1], encoding="utf-8"))["vectors"]:
    blob = bytes.fromhex(vector["envelope"])
    try:
        got = read(blob) | {"aad": aad(blob, vector.get("context", {}))}
    except ValueError:
        got = {"error": "InvalidCiphertext"}
    assert got.items() <= vector.items() and got.keys() | {"name", "envelope", "context"} >= vector.keys(), vector["name"]
    print("agreed:", vector["name"])
