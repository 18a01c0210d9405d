"""Who may call us, and what they may use. No decision means refusal."""
