"""What the codecs of all protocols share: the events of an answer, and how streams of them are decoded and encoded."""
