#!/usr/bin/env python3
"""Writes recorded/smollm2_135m_q4_1.json: what float32 arithmetic continues each of prompts.json with, greedily.

  record.py --model models/SmolLM2-135M-Instruct.Q4_1.gguf --llama-lib DIR

llama.cpp tokenizes the prompts and drafts (see ReferenceModel.greedy); every recorded token is the numpy model's own.
Takes some minutes on two cores. Run it again only when prompts.json changes.
"""

import argparse
import hashlib
import json
import pathlib

from llama_peer import LlamaPeer
from reference_model import ReferenceModel, log_softmax

HERE = pathlib.Path(__file__).parent
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)  # what the file's template renders


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--llama-lib", required=True, help="folder of libllama.so")
    parser.add_argument("--tokens", type=int, default=64, help="a prompt")
    args = parser.parse_args()
    peer, model = LlamaPeer(args.llama_lib, args.model), ReferenceModel(args.model)
    sequences = []
    for prompt in json.loads((HERE / "prompts.json").read_text()):
        chat = "chat" in prompt
        ids = peer.tokenize(
            CHAT.format(prompt["chat"]) if chat else prompt["text"], parse_special=chat
        )
        greedy = model.greedy(ids, args.tokens, peer.greedy)
        rows = log_softmax(model.logits(ids + greedy, first=len(ids) - 1))[:-1]
        margins = []
        for row, token in zip(rows, greedy):
            best = row[token]
            row[token] = -float("inf")
            margins.append(round(float(best - row.max()), 4))
            row[token] = best
        logprobs = [round(float(row[token]), 5) for row, token in zip(rows, greedy)]
        sequences.append(
            {**prompt, "prompt": ids, "greedy": greedy, "logprob": logprobs, "margin": margins}
        )
        print(len(sequences), greedy[:8], min(margins), flush=True)
    digest = hashlib.sha256(pathlib.Path(args.model).read_bytes()).hexdigest()
    head = json.dumps({"model_sha256": digest})[:-1]
    body = ",\n".join(json.dumps(s, ensure_ascii=False, separators=(",", ":")) for s in sequences)
    (HERE / "recorded" / "smollm2_135m_q4_1.json").write_text(
        f'{head}, "sequences": [\n{body}\n]}}\n'
    )


if __name__ == "__main__":
    main()
