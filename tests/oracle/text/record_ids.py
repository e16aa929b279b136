"""Trains small vocabularies and records what llama.cpp and Hugging Face `tokenizers` make of vectors/texts.json.

  record_ids.py LLAMA_TOKENIZE [MODEL.gguf]

LLAMA_TOKENIZE is llama_tokenize.cc, built against libllama. Writes vectors/vocab_NAME.json (a vocabulary of a few
hundred tokens for every rule) with the ids of all texts, twice: with special tokens parsed and without. The ids are
llama.cpp's; how often `tokenizers` agrees is printed. With MODEL.gguf, a real SmolLM2, its ids go to
vectors/ids_smollm2.json. Needs the packages tokenizers, gguf, numpy.
"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

import make_texts

HERE = pathlib.Path(__file__).parent / "vectors"
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(False)])


PRE = {
    "gpt-2": byte_level(True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "llama-bpe": split(LLAMA3),
    "qwen2": split(QWEN2),
}
SPECIALS = [("<|endoftext|>", CONTROL), ("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL), ("<s>", CONTROL), ("<tool>", USER)]


def train_bpe(pre, corpus):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE[pre]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=640, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [text for text, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [" ".join(merge) for merge in model["merges"]]
    if pre == "smollm":  # the real one lacks bytes too: they are left out
        used = {part for merge in merges for part in merge.split(" ")}
        missing = [t for t in tokens if len(t) == 1 and t not in used and not t.isascii()][:21]
        tokens = [t for t in tokens if t not in missing]
    if pre == "llama-bpe":  # whole words that no merges lead to
        tokens += [t for t in ("Ġlazy", "Ġjumps", "ĠwÃ¶rld", "ðŁĳĭðŁı½") if t not in tokens]
    types = [NORMAL] * len(tokens) + [kind for _, kind in SPECIALS]
    return {"model": "gpt2", "pre": pre, "tokens": tokens + [t for t, _ in SPECIALS], "types": types, "merges": merges,
            "bos": len(tokens), "eos": len(tokens) + 2}


def train_sentencepiece(corpus):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(" "), "merged_with_next"), pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")])
    trainer = trainers.BpeTrainer(vocab_size=620, limit_alphabet=180, show_progress=False)
    tokenizer.train_from_iterator([t.replace("\n", "") for t in corpus], trainer)
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    pieces = [text.replace(" ", "▁") for text, _ in sorted(vocab.items(), key=lambda item: item[1])]
    pieces += [p for p in ("▁▁", "▁▁▁▁") if p not in pieces]
    is_char = [len(p) == 1 for p in pieces]
    pieces = [p for p, c in zip(pieces, is_char) if not c] + [p for p, c in zip(pieces, is_char) if c]
    head = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)] + [(f"<0x{b:02X}>", BYTE) for b in range(256)]
    tail = [("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL), ("<tool>", USER)]
    rows = head + [(p, NORMAL) for p in pieces] + tail
    scores = [0.0] * len(head) + [-float(i) for i in range(len(pieces))] + [0.0] * len(tail)
    return {"model": "llama", "pre": "default", "tokens": [t for t, _ in rows], "types": [k for _, k in rows], "scores": scores,
            "bos": 1, "eos": 2, "unk": 0, "add_space_prefix": True}


def write_gguf(vocab, path):
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in ((writer.add_context_length, 64), (writer.add_embedding_length, 8), (writer.add_block_count, 1),
                       (writer.add_feed_forward_length, 8), (writer.add_head_count, 1), (writer.add_layer_norm_rms_eps, 1e-5)):
        add(value)
    writer.add_tokenizer_model(vocab["model"])
    writer.add_tokenizer_pre(vocab["pre"])
    writer.add_token_list(vocab["tokens"])
    writer.add_token_types(vocab["types"])
    if "scores" in vocab:
        writer.add_token_scores(vocab["scores"])
    if "merges" in vocab:
        writer.add_token_merges(vocab["merges"])
    writer.add_bos_token_id(vocab["bos"])
    writer.add_eos_token_id(vocab["eos"])
    if "unk" in vocab:
        writer.add_unk_token_id(vocab["unk"])
    if "add_space_prefix" in vocab:
        writer.add_add_space_prefix(vocab["add_space_prefix"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_ids(program, path, texts, parse_special):
    blobs = [text.encode() for text in texts]
    data = b"".join(struct.pack("<I", len(blob)) + blob for blob in blobs)
    run = subprocess.run([program, path, str(int(parse_special))], input=data, capture_output=True, check=True)
    lines = run.stdout.decode().split("\n")[:-1]
    assert len(lines) == len(texts)
    return [[int(i) for i in line.split()] for line in lines]


def library_tokenizer(vocab):
    ids = {text: i for i, text in enumerate(vocab["tokens"])}
    kinds = dict(zip(vocab["tokens"], vocab["types"]))
    if vocab["model"] == "gpt2":
        model = models.BPE(ids, [tuple(m.split(" ")) for m in vocab["merges"]], ignore_merges=vocab["pre"] == "llama-bpe")
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = PRE[vocab["pre"]]
    else:
        text_ids = {t: i for t, i in ids.items() if kinds[t] in (NORMAL, USER)}
        pairs = [(vocab["scores"][i], i, t[:k], t[k:]) for t, i in text_ids.items() for k in range(1, len(t))]
        pairs = [p for p in pairs if p[2] in text_ids and p[3] in text_ids]
        merges = [(left, right) for _, _, left, right in sorted(pairs, key=lambda p: (-p[0], p[1], p[2]))]
        tokenizer = Tokenizer(models.BPE(ids, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    for text, kind in zip(vocab["tokens"], vocab["types"]):
        if kind in (CONTROL, USER, UNKNOWN):
            tokenizer.add_tokens([AddedToken(text, special=kind != USER, normalized=False)])
    return tokenizer


def library_ids(vocab, texts, parse_special):
    tokenizer = library_tokenizer(vocab)
    tokenizer.encode_special_tokens = not parse_special
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def record(program, vocab, name, texts):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/vocab.gguf"
        write_gguf(vocab, path)
        for key, parse in (("ids", False), ("ids_special", True)):
            vocab[key] = llama_ids(program, path, texts, parse)
            other = library_ids(vocab, texts, parse)
            same = sum(a == b for a, b in zip(vocab[key], other))
            print(f"{name} parse_special={parse}: tokenizers agrees with llama.cpp on {same} of {len(texts)}")
            for text, a, b in zip(texts, vocab[key], other):
                if a != b:
                    print("   ", repr(text)[:60], [vocab["tokens"][i] for i in a][:24], [vocab["tokens"][i] for i in b][:24])
    write_vectors(f"vocab_{name}.json", vocab)


def write_vectors(name, value):
    """One line a key, ids compact; with special tokens parsed, only what differs."""
    value["ids_special"] = {str(i): b for i, (a, b) in enumerate(zip(value["ids"], value["ids_special"])) if a != b}
    rows = [f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in value.items()]
    (HERE / name).write_text("{\n" + ",\n".join(rows) + "\n}\n")


def main():
    program = sys.argv[1]
    texts = make_texts.texts()
    corpus = [p for p in make_texts.PHRASES if "\u0000" not in p] * 3 + texts[:600]
    for pre in PRE:
        record(program, train_bpe(pre, corpus), pre.replace("-", "_"), texts)
    record(program, train_sentencepiece(corpus), "sentencepiece", texts)
    if len(sys.argv) > 2:
        ids = {key: llama_ids(program, sys.argv[2], texts, parse) for key, parse in (("ids", False), ("ids_special", True))}
        write_vectors("ids_smollm2.json", ids)


if __name__ == "__main__":
    main()
