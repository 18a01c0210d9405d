"""The top-level names of OpenAI's requests, to refuse duplicates of them in other spellings.

Source: the types of the openai Python SDK 3.52.0, read 2026-12-01, and the names that compatible servers add and act
on. Chat and Responses share one set, because clients send bodies of one to the path of the other.
"""

_BOTH = """
    model stream stream_options store metadata user service_tier temperature top_p top_logprobs tools tool_choice
    parallel_tool_calls moderation prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier
    reasoning
"""
_CHAT = """
    messages audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
    modalities n prediction presence_penalty reasoning_effort response_format seed stop verbosity web_search_options
    thinking top_k min_p models provider route plugins extra_body chat_template_kwargs
"""
_RESPONSES = """
    input access_programs background context_management conversation image include instructions max_output_tokens
    max_tool_calls personality previous_response_id prompt text truncation
"""
_COMPLETIONS = """
    model prompt suffix max_tokens temperature top_p n stream stream_options logprobs echo stop presence_penalty
    frequency_penalty best_of logit_bias seed user store metadata
"""

CONVERSATION_NAMES = frozenset((_BOTH + _CHAT + _RESPONSES).split())
COMPLETIONS_NAMES = frozenset(_COMPLETIONS.split())
