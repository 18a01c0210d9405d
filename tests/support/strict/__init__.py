"""What the vendors refuse, as rules: a request that a real upstream would answer with a 400 fails a test by its rule.

`check_chat` and the like take a request as a scripted upstream received it and raise `Refused`, which names the rule.
Each protocol's rules are a table of small functions; a rule says nothing about requests it does not concern.
They judge requests only, and never what a gateway should have made of them.
"""

from support.strict.chat import CHAT_RULES, check_chat
from support.strict.gemini import GEMINI_RULES, check_gemini
from support.strict.messages import MESSAGES_RULES, check_messages
from support.strict.responses import RESPONSES_RULES, check_responses
from support.strict.rules import Refused, Rule
from support.strict.templates import TEMPLATE_RULES, check_template

__all__ = [
    "CHAT_RULES",
    "GEMINI_RULES",
    "MESSAGES_RULES",
    "RESPONSES_RULES",
    "TEMPLATE_RULES",
    "Refused",
    "Rule",
    "check_chat",
    "check_gemini",
    "check_messages",
    "check_responses",
    "check_template",
]
