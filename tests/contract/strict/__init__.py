"""What the vendors refuse, as rules: a request that a real upstream would answer with a 400 fails a test by its rule.

`check_chat` and `check_messages` take a request as a scripted upstream received it and raise `Refused`, which names the
rule. Each protocol's rules are a table of small functions; a rule says nothing about requests it does not concern.
They judge requests only, and never what a gateway should have made of them.
"""

from contract.strict.chat import CHAT_RULES, check_chat
from contract.strict.messages import MESSAGES_RULES, check_messages
from contract.strict.rules import Refused, Rule

__all__ = ["CHAT_RULES", "MESSAGES_RULES", "Refused", "Rule", "check_chat", "check_messages"]
