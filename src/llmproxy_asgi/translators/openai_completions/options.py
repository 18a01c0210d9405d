"""The options of legacy completions, for callers; upstreams get them unchanged."""

from typing import Final

import llmproxy_asgi.translators.codec.options as codec
from llmproxy_asgi.translators.codec.options import Rule, Table
from llmproxy_asgi.translators.openai import options as shared

PROTOCOL: Final = "openai-completions"
_MOST_CANDIDATES = 128

OPTIONS = Table(
    PROTOCOL,
    [
        shared.TEMPERATURE,
        shared.TOP_P,
        shared.SEED,
        shared.FREQUENCY_PENALTY,
        shared.PRESENCE_PENALTY,
        shared.LOGIT_BIAS,
        Rule("max_output_tokens", "max_tokens", codec.integer(0)),
        Rule("stop", "stop", shared.STOP),
        Rule("candidates", "n", codec.integer(1, _MOST_CANDIDATES)),
        Rule("end_user", "user", codec.TEXT),
    ],
    beside=("model", "prompt", "stream", "stream_options", "suffix", "logprobs", "echo", "best_of"),
)
