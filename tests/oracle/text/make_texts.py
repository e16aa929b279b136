"""Writes vectors/texts.json: the texts that tokenizers are compared on. Deterministic."""
import json
import pathlib
import random

SEED = 20240607
PHRASES = [
    "Hello, world!", "The quick brown fox jumps over the lazy dog.", "I'm you're he'll we've they'd it's don't",
    "I'M YOU'RE HE'LL WE'VE THEY'D IT'S", "'s't're've'm'll'd", "'S 'T 'RE 'VE 'M 'LL 'D ' 'x", "it’s “quoted” — dash",
    "naïve café résumé Ångström coöperate", "Straße ẞ ß ſ ŉ", "Привет, как дела? Всё хорошо.", "Καλημέρα κόσμε",
    "שלום עולם", "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया १२३", "สวัสดีชาวโลก", "안녕하세요 세계", "こんにちは世界。カタカナ",
    "你好，世界！今天天气不错。", "漢字仮名交じり文とABC", "Việt Nam Tiếng Việt", "İstanbul ığüşöç", "Ελληνικά ΑΒΓ αβγ",
    "👋🏽 hi 👨‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇩🇪🇯🇵", "❤️ ☎️ 1️⃣ #️⃣", "🤦🏼‍♂️🧑🏿‍🚀", "e\u0301 o\u0308 combining z\u0335\u0321",
    "Z͑ͫ̓ͪ̂ͫ̽a̴l̨g̷o", "\u200bzero\u200bwidth\u200d \u200e\u200f marks", "\ufeffbom", "soft\u00adhyphen", "a\u00a0b\u3000c\u2003d\u2028e\u0085f",
    "for (int i = 0; i < n; ++i) { x[i] += 1.5e-3f; }", "def f(x):\n    return x ** 2\n\n\nprint(f(3))", "SELECT * FROM t WHERE a='b';",
    "<html><body class=\"x\">&amp;</body></html>", "https://example.com/a/b?c=d&e=f#g", "user@example.org", "C:\\Users\\x\\y.txt",
    "{\"key\": [1, 2.5, null, true], \"s\": \"a\\nb\"}", "| a | b |\n|---|---|\n| 1 | 2 |", "# Title\n\n* one\n* two\n  * three\n",
    "1234567890", "3.14159 2,718 1e10 0x1F 007 1/2 50%", "1 22 333 4444 55555 666666 7777777", "½ ¼ ² ³ ① Ⅻ ৩ ፩ 〇 一二三",
    "2024-06-07T12:34:56Z", "$1,234.56 €99 £5 ¥1000", "a1b2c3 x2y4", "Aa BB cC camelCase snake_case kebab-case SCREAMING_CASE",
    "...!!!???;;;:::,,,", "!@#$%^&*()_+-=[]{}|;':\",./<>?`~", "((([[[{{{}}}]]])))", "--- === *** ___ ### >>> <<<", "a.b.c..d...e",
    "\u0000null\u0001ctl\u001f\u007f", "tab\tseparated\tvalues", "cr\rlf\r\nend\n\r", "\n", "\n\n", "\n\n\n\n", "\r\n\r\n", "\t", "\t\t\t",
    " ", "  ", "   ", "    ", "        ", " \n ", "\n \n", "  \n\n  x", "x  ", "x \n", "  leading", "trailing  ", "a  b   c    d     e",
    "if x:\n\treturn\n    pass", " \t \t x", "\u3000\u3000全角", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "=========================",
    "abababababababab", "ＦＵＬＬ　ＷＩＤＴＨ　１２３", "𝒜𝓁𝓅𝒽𝒶 𝟏𝟐𝟑 𝔘𝔫𝔦", "\U0010fffd \ue000 \uf8ff private", "\ufffd replacement \ufffe", "",
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<tool>", "<0x0A>", "<|im_end", "|im_end|>", "<||im_end|>", "▁", "▁▁"]
SEPARATORS = ["", " ", "  ", "\n", "\n\n", "\t", "'", ".", "1", "_", "\r\n", "\u00a0"]
RANGES = [(0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x620, 0x64A), (0x900, 0x97F),
          (0xE01, 0xE3A), (0x1100, 0x115F), (0x2000, 0x206F), (0x2190, 0x21FF), (0x2E80, 0x2EFF), (0x3040, 0x30FF), (0x4E00, 0x4FFF),
          (0xAC00, 0xACFF), (0xFE00, 0xFE0F), (0x1F300, 0x1F64F), (0x300, 0x36F), (0x30, 0x39), (0x09, 0x0D)]


def texts():
    rng = random.Random(SEED)
    found = list(PHRASES) + SPECIALS
    while len(found) < 620:  # phrases cut anywhere and joined by anything
        a, b = rng.choice(PHRASES), rng.choice(PHRASES)
        found.append(a[: rng.randint(0, 30)] + rng.choice(SEPARATORS) + b[-rng.randint(1, 30):])
    while len(found) < 760:  # special tokens inside of text
        parts = [rng.choice(SPECIALS) if rng.random() < 0.4 else rng.choice(PHRASES)[: rng.randint(0, 12)] for _ in range(rng.randint(2, 5))]
        found.append("".join(parts))
    while len(found) < 980:  # characters of a few scripts
        spans = [rng.choice(RANGES) for _ in range(rng.randint(1, 3))]
        found.append("".join(chr(rng.randint(*rng.choice(spans))) for _ in range(rng.randint(1, 24))))
    while len(found) < 1100:  # white space, digits, apostrophes and letters, dense
        found.append("".join(rng.choice(" \n\t\r 12'saA.é ") for _ in range(rng.randint(1, 24))))
    return found


if __name__ == "__main__":
    out = pathlib.Path(__file__).parent / "vectors" / "texts.json"
    out.write_text(json.dumps(texts(), ensure_ascii=True, indent=0) + "\n")
