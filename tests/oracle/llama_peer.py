"""llama.cpp's logits through ctypes: the peer in the comparisons. Needs its shared libraries (--llama-lib DIR).

Structs are those of llama.cpp at 0c1e570 (the version in PyPI's llama-cpp-python 0.3.36). A different version is
noticed by its default parameters landing in the wrong fields, and refused.
"""

import ctypes
import glob
import os
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_void_p

import numpy as np


class ModelParams(ctypes.Structure):
    _fields_ = [
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    ]


class ContextParams(ctypes.Structure):
    _fields_ = [
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    ]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


_QUIET = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)(lambda level, text, data: None)
_F16 = 1  # ggml type id


def _load(folder):
    lib = ctypes.CDLL(os.path.join(folder, "libllama.so"))
    for ggml in glob.glob(os.path.join(folder, "libggml.so")):
        ctypes.CDLL(ggml)  # backends register themselves
    types = {
        "llama_model_default_params": ([], ModelParams),
        "llama_context_default_params": ([], ContextParams),
        "llama_model_load_from_file": ([c_char_p, ModelParams], c_void_p),
        "llama_init_from_model": ([c_void_p, ContextParams], c_void_p),
        "llama_model_get_vocab": ([c_void_p], c_void_p),
        "llama_vocab_n_tokens": ([c_void_p], c_int32),
        "llama_vocab_get_add_bos": ([c_void_p], c_bool),
        "llama_vocab_bos": ([c_void_p], c_int32),
        "llama_get_memory": ([c_void_p], c_void_p),
        "llama_memory_clear": ([c_void_p, c_bool], None),
        "llama_batch_init": ([c_int32, c_int32, c_int32], Batch),
        "llama_decode": ([c_void_p, Batch], c_int32),
        "llama_get_logits": ([c_void_p], POINTER(c_float)),
        "llama_log_set": ([c_void_p, c_void_p], None),
        "llama_tokenize": (
            [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool],
            c_int32,
        ),
    }
    for name, (arguments, result) in types.items():
        getattr(lib, name).argtypes, getattr(lib, name).restype = arguments, result
    return lib


class LlamaPeer:
    """One model, one context, all else llama.cpp's defaults: f16 keys and values, int8 activations."""

    def __init__(self, library_folder, model, max_tokens=1024, threads=2):
        self._lib = lib = _load(library_folder)
        lib.llama_log_set(_QUIET, None)
        params, context = lib.llama_model_default_params(), lib.llama_context_default_params()
        seen = (context.n_ctx, context.n_batch, context.n_ubatch, context.type_k, context.type_v)
        if seen != (512, 2048, 512, _F16, _F16):
            raise RuntimeError(
                f"{library_folder}: default parameters read as {seen}: a llama.cpp with other structs"
            )
        params.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(os.fsencode(model), params)
        context.n_ctx = context.n_batch = context.n_ubatch = max_tokens
        context.n_threads = context.n_threads_batch = threads
        self._context = lib.llama_init_from_model(self._model, context)
        if not self._model or not self._context:
            raise RuntimeError(f"{model}: llama.cpp cannot load it")
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.vocab_size = lib.llama_vocab_n_tokens(self._vocab)
        self.adds_bos = lib.llama_vocab_get_add_bos(self._vocab)
        self._max_tokens = max_tokens
        self._batch = lib.llama_batch_init(max_tokens, 0, 1)

    def tokenize(self, text, add_special=False, parse_special=False):
        data = text.encode()
        out = (c_int32 * (len(data) + 2))()
        n = self._lib.llama_tokenize(
            self._vocab, data, len(data), out, len(out), add_special, parse_special
        )
        return list(out[:n])

    def _decode(self, ids, start, all_logits):
        b = self._batch
        b.n_tokens = len(ids)
        for i, token in enumerate(ids):
            b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0] = token, start + i, 1, 0
            b.logits[i] = 1 if all_logits or i + 1 == len(ids) else 0
        if self._lib.llama_decode(self._context, b) != 0:
            raise RuntimeError("llama_decode refused the batch")
        rows = len(ids) if all_logits else 1
        view = np.ctypeslib.as_array(
            self._lib.llama_get_logits(self._context), (rows, self.vocab_size)
        )
        return view.copy()

    def _clear(self):
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def logits(self, ids):
        """[len(ids), vocab], from an empty cache, in one batch. REQUIRES len(ids) <= max_tokens."""
        self._clear()
        return self._decode(list(ids), 0, True)

    def greedy(self, ids, max_tokens):
        self._clear()
        row, out = self._decode(list(ids), 0, False), []
        while len(out) < max_tokens:
            out.append(int(row[0].argmax()))
            if len(out) < max_tokens:
                row = self._decode(out[-1:], len(ids) + len(out) - 1, False)
        return out
