"""Writes tokenizers/NAME.json: a tokenizer.json for each way to cut words, and the ids that Hugging Face `tokenizers`
gives its texts.

The vocabularies are those of ../text/vectors, the texts too, and some whose normal form C is another text. "ids" are
without special tokens parsed, "ids_special" with them and with what the post-processor adds.

    pip install -r requirements.txt && python record_tokenizers.py
"""
import json
import pathlib

from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).parent
VECTORS = HERE.parent / "text" / "vectors"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
UNNORMALIZED = ["e\u0301a\u030a", "\u1112\u1161\u11ab", "A\u0327\u0301 \u212b", "q\u0307\u0323 <|im_end|>e\u0301"]
CONTROL, USER = 3, 4


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(digits):
    regex = CONTRACTIONS + WORDS % digits
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


# name: vocabulary, pre-tokenizer, whether merges are ignored for whole words, normalizer
KINDS = {
    "gpt_2": (byte_level(True), False, None),
    "smollm": (sequence({"type": "Digits", "individual_digits": True}, byte_level(True)), False, None),
    "llama_bpe": (sequence(split(r"\p{N}{1,3}"), byte_level(False)), True, None),
    "qwen2": (sequence(split(r"\p{N}"), byte_level(False)), False, {"type": "NFC"}),
}


def tokenizer_json(vector, pre_tokenizer, ignore_merges, normalizer):
    added, vocab = [], {}
    for index, (token, kind) in enumerate(zip(vector["tokens"], vector["types"])):
        if kind in (CONTROL, USER):
            added.append({"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": kind == CONTROL})
        else:
            vocab[token] = index
    bos = vector["tokens"][vector["bos"]]
    pieces = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {bos: {"id": bos, "ids": [vector["bos"]], "tokens": [bos]}}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": {"type": "TemplateProcessing", "single": pieces, "pair": pieces + pieces[1:], "special_tokens": special},
            "decoder": byte_level(True),
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": ignore_merges, "vocab": vocab, "merges": [m.split(" ") for m in vector["merges"]]}}


def main():
    texts = json.loads((VECTORS / "texts.json").read_text())[::4] + UNNORMALIZED
    for name, (pre_tokenizer, ignore_merges, normalizer) in KINDS.items():
        vector = json.loads((VECTORS / f"vocab_{name}.json").read_text())
        contents = tokenizer_json(vector, pre_tokenizer, ignore_merges, normalizer)
        tokenizer = Tokenizer.from_str(json.dumps(contents))
        tokenizer.encode_special_tokens = True
        plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        tokenizer.encode_special_tokens = False
        special = [tokenizer.encode(text, add_special_tokens=True).ids for text in texts]
        recorded = {"tokenizer": contents, "vocab_size": len(vector["tokens"]), "texts": texts, "ids": plain, "ids_special": special}
        (HERE / "tokenizers" / f"{name}.json").write_text(json.dumps(recorded, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
