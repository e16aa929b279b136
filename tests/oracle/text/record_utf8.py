"""Records how Python decodes every string of 1 to 3 bytes over one byte of each class, and every one of 4 that a lead
byte of 4 begins: vectors/utf8.json."""
import itertools
import json
import pathlib

BYTES = [0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xE0, 0xE1, 0xED, 0xEE, 0xF0, 0xF1, 0xF4, 0xF5]
shapes = []
for length in range(1, 5):
    for combination in itertools.product(BYTES, repeat=length):
        if length == 4 and combination[0] not in (0xF0, 0xF1, 0xF4):
            continue
        text = bytes(combination).decode("utf-8", "replace")
        shapes.append("".join("R" if c == "\ufffd" else "c" for c in text) + ";")
out = pathlib.Path(__file__).parent / "vectors" / "utf8.json"
out.write_text(json.dumps({"bytes": BYTES, "characters": "".join(shapes)}) + "\n")
