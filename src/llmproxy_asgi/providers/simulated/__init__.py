"""The embedded provider: answers every protocol without any network, for trying out, tests and demos.

::

    provider.py     where it is registered; its address names the protocol that is spoken
      └─ serve.py   the transport seam: a request's bytes in, an answer's bytes out, at the pace of a model
           ├─ behaviours.py   the model's name decides what is answered; canned_text.py holds the long text
           └─ filling.py      values that fit a JSON schema; patterns.py: texts that fit a regular expression

It answers wire bytes, so that whatever speaks to it is translated as it would be for any other upstream.
"""

from llmproxy_asgi.providers.simulated.behaviours import names
from llmproxy_asgi.providers.simulated.provider import Simulated, SimulatedConfig
from llmproxy_asgi.providers.simulated.serve import SimulatedTransport

__all__ = ["Simulated", "SimulatedConfig", "SimulatedTransport", "names"]
