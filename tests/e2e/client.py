"""A Python client of nibble.v1, over stubs that conftest.py generated from proto/."""

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from nibble.v1 import admin_pb2_grpc, generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from nibble.v1 import prompt_pb2, tokenizer_pb2_grpc

from nibble_process import wait_until

GREEDY = {"temperature": 0.0}
OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]


class Client:
    """One channel and its stubs. `call_timeout` bounds a hanging test, nothing else."""

    call_timeout = 120

    def __init__(self, target, credentials=None, options=()):
        options = OPTIONS + list(options)
        self.channel = (
            grpc.secure_channel(target, credentials, options)
            if credentials
            else grpc.insecure_channel(target, options)
        )
        self.generation = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)
        self.tokenizer = tokenizer_pb2_grpc.TokenizerServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def generate(self, prompt, **kwargs):
        timeout = kwargs.pop("timeout", self.call_timeout)
        return self.generation.Generate(
            request(generation_pb2.GenerateRequest, prompt, **kwargs), timeout=timeout
        )

    def open_stream(self, prompt, **kwargs):
        """The call object, an iterator of events."""
        timeout, metadata = kwargs.pop("timeout", self.call_timeout), kwargs.pop("metadata", None)
        return self.generation.GenerateStream(
            request(generation_pb2.GenerateStreamRequest, prompt, **kwargs),
            timeout=timeout,
            metadata=metadata,
        )

    def stream(self, prompt, **kwargs):
        return Streamed(self.open_stream(prompt, **kwargs))

    def load(self):
        return self.models.GetLoad(model_pb2.GetLoadRequest(), timeout=self.call_timeout)

    def wait_idle(self):
        """Until nothing runs, waits or holds a block."""

        def idle():
            load = self.load()
            return (
                load
                if (load.running, load.waiting, load.blocks_in_use, load.open_requests)
                == (0, 0, 0, 0)
                else None
            )

        return wait_until(idle, "the server to be idle")


def request(kind, prompt, sampling=None, stopping=None, response=None, **fields):
    """`prompt`: str, a list of ids, or {"chat": [(role, content)...]}. Keyword dicts fill the parameter messages."""
    message = kind(**fields)
    if isinstance(prompt, str):
        message.text = prompt
    elif isinstance(prompt, dict):
        turns = [
            prompt_pb2.ChatMessage(role=role, content=content) for role, content in prompt["chat"]
        ]
        message.chat.messages.extend(turns)
    else:
        message.token_ids.ids.extend(prompt)
    for name, values in (("sampling", sampling), ("stopping", stopping), ("response", response)):
        target = getattr(message, name)
        for key, value in (values or {}).items():
            if isinstance(value, (list, tuple)):
                getattr(target, key).extend(value)
            elif isinstance(value, dict):
                getattr(target, key).update(value)
            else:
                setattr(target, key, value)
    return message


class Streamed:
    """All of one stream: checks the order of events while reading it."""

    def __init__(self, call):
        self.texts, self.token_ids, self.logprobs, self.prompt_logprobs = [], [], [], []
        self.started = self.finished = None
        for event in call:
            kind = event.WhichOneof("event")
            assert self.finished is None, f"{kind} after finished"
            assert (kind == "started") == (self.started is None), f"{kind} is not where it belongs"
            if kind == "started":
                self.started = event.started
            elif kind == "finished":
                self.finished = event.finished
            else:
                self.texts.append(event.delta.text)
                self.token_ids += event.delta.token_ids
                self.logprobs += event.delta.logprobs
                self.prompt_logprobs += event.delta.prompt_logprobs
        self.text = "".join(self.texts)
        self.trailers = dict(call.trailing_metadata())


def reason(answer):
    """ "MAX_TOKENS" of a GenerateResponse, a Finished or a Streamed."""
    answer = getattr(answer, "finished", answer)
    return generation_pb2.FinishReason.Name(answer.finish_reason).removeprefix("FINISH_REASON_")


class Refusal:
    """What a failed call says: code, message, and the google.rpc details by kind."""

    KINDS = (
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.QuotaFailure,
        error_details_pb2.ErrorInfo,
    )

    def __init__(self, error):
        self.code, self.message = error.code(), error.details()
        self.trailers = dict(error.trailing_metadata() or ())
        self.details = {}
        status = rpc_status.from_call(error)
        for packed in status.details if status else ():
            for kind in self.KINDS:
                if packed.Is(kind.DESCRIPTOR):
                    self.details[kind.__name__] = kind.FromString(packed.value)

    def fields(self):
        return (
            [v.field for v in self.details["BadRequest"].field_violations]
            if "BadRequest" in self.details
            else []
        )


def refusal(call):
    """Runs `call` (a function), which must fail, to the end of its answer."""
    try:
        answer = call()
        if hasattr(answer, "trailing_metadata"):  # a stream: fails while it is read
            for _ in answer:
                pass
    except grpc.RpcError as error:
        return Refusal(error)
    raise AssertionError("the call was answered")
