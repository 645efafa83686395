"""The settings of one language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

__all__ = ["ModelSettings"]

DialectName = Literal["auto", "llamacpp", "openai", "sglang", "vllm", "weft"]


def _url(text: str) -> str:
    """Refuse what is no URL of a server, or holds a password."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"the URL of a server is 'http://HOST:PORT/v1', not {text!r}")
    if parts.username is not None:
        raise ValueError("a password does not belong in a URL, which is shown: pass it as 'key'")
    return text.rstrip("/")


Url = Annotated[str, AfterValidator(_url)]
"""Where an OpenAI-compatible server answers: `http://HOST:PORT/v1`."""

_SERVED: Final = frozenset({"context_length", "dialect", "key", "served_as", "wait_s"})
"""What is said of models that another server runs; and of those that a worker runs:"""
_OWN: Final = frozenset(
    {
        "code",
        "device",
        "dtype",
        "host_kv_tokens",
        "kv_tokens",
        "native",
        "prompt_lookup",
        "quantization",
        "tensor_parallel",
        "threads",
        "token_budget",
        "workers",
    }
)


class ModelSettings(BaseModel):
    """A language model, and how a worker runs it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    """How programs name it; by default the last part of `path`."""
    path: str
    """A folder with a Hugging Face checkpoint, or the name of one on the hub. With `url`, only its tokenizer,
    chat template and configuration are read."""
    url: Url | None = None
    """An OpenAI-compatible server that runs the model in a worker's stead: docs/upstream.md."""
    served_as: str = ""
    """How that server names the model; by default `name` if it has one of that name, or its only one."""
    key: SecretStr | None = Field(default=None, min_length=1, exclude=True)
    """The key that it wants; a worker process gets it as a variable."""
    dialect: DialectName = "auto"
    """What it understands besides OpenAI's API; auto goes by what it says of its models."""
    context_length: int | None = Field(default=None, gt=0)
    """The longest text that it takes, in tokens; by default what it says itself, or the configuration."""
    wait_s: float = Field(default=30.0, ge=0)
    """How long a worker that starts waits for it to answer."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes a GPU if there is one, and of several workers each another one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and computation; auto takes the checkpoint's on a GPU; on a CPU float32, or bfloat16 if the
    checkpoint has it, is not small, and the CPU, as measured at the start, computes it faster."""
    quantization: Literal["auto", "none", "fp8", "int4"] = "auto"
    """Of the layers' matrices, by weft's code on a GPU: fp8 keeps and multiplies them in 8 bits, in half the
    memory; int4 keeps them in 4, in little more than a quarter; auto does as the checkpoint is published, if
    the GPU can."""
    code: Literal["auto", "weft", "transformers"] = "auto"
    """Whose code computes the model: weft's, which knows the families Llama, Mistral, Qwen2, Qwen3, Mixtral,
    Qwen2-MoE and Qwen3-MoE, or that of transformers, more slowly; auto takes weft's where it can."""
    kv_tokens: int | None = Field(default=None, gt=0)
    """Tokens whose keys and values the worker keeps; by default as many as memory allows."""
    host_kv_tokens: int | None = Field(default=None, ge=0)
    """Tokens whose keys and values stay in the host's memory, pinned, when the GPU has no room for them, to
    be copied back when they are asked for; by default as many as the GPU has room for, but no more than an
    eighth of the machine's memory for all its GPUs; on a CPU none. 0: none."""
    token_budget: int | None = Field(default=None, gt=0)
    """Tokens that one step computes at most; by default 512 on a CPU, 2048 on a GPU."""
    max_running: int | None = Field(default=None, gt=0)
    """Requests that one step serves at most; by default 64 on a CPU, 256 on a GPU. With `url`, those that are
    sent at a time, 64 by default."""
    tensor_parallel: int = Field(default=1, gt=0)
    """Processes that share the model of one worker, each with some of its heads, on the GPUs from `device`
    on; it must divide the model's heads, KV heads and inner width. No KV goes to the host or to other workers
    then. On a CPU it works, too, slowly: for trying it out."""
    native: bool = True
    """In float32 on a CPU, compute in C that this machine's compiler has compiled for it, if it has one and
    the model has no experts."""
    prompt_lookup: bool = True
    """Compute in one step several tokens that the context lets expect, as answers copy from it; texts stay
    the same, in fewer steps."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; by default torch decides."""
    workers: int = Field(default=1, gt=0)
    """Worker processes that a server starts for the model."""

    @model_validator(mode="before")
    @classmethod
    def _name_after_path(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("path"), str) and not data.get("name"):
            return {**data, "name": Path(data["path"]).name}
        return data

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        """Refuse what is nothing to a model that another server runs, or to one that a worker runs."""
        fields, idle = type(self).model_fields, _OWN if self.url else _SERVED
        for name in sorted(idle):
            if getattr(self, name) != fields[name].default:
                wrong = "is the other server's business" if self.url else "goes with 'url' only"
                raise ValueError(f"{name!r} {wrong}: leave it out of the table of model {self.name!r}")
        return self
