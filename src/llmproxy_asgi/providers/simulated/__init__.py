"""The embedded provider: answers in every protocol without a network, for evaluation, tests and demos.

::

    provider.py     the registered provider; its address contains the protocol
      └─ serve.py   the transport: a request's bytes in, a response's bytes out, at the pace of a model
           ├─ behaviours.py   the model's name selects the response; canned_text.py holds the long text
           └─ filling.py      values that fit a JSON schema; patterns.py: texts that fit a regular expression

It answers with wire bytes, so that calls are translated as for any other upstream.
"""

from llmproxy_asgi.providers.simulated.behaviours import names
from llmproxy_asgi.providers.simulated.provider import Simulated, SimulatedConfig
from llmproxy_asgi.providers.simulated.serve import SimulatedTransport

__all__ = ["Simulated", "SimulatedConfig", "SimulatedTransport", "names"]
