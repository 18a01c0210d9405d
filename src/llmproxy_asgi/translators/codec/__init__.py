"""What the codecs of all protocols share: the events of an answer, and the decoding of their streams."""
