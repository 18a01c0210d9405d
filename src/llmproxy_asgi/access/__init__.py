"""Access control: who may call the gateway, and what they may use. Without a decision a call is refused."""
