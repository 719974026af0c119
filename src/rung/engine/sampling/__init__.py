"""From logits to tokens: repetition penalty, temperature, top-k, top-p, and the draw. No vocabulary-wide sort."""
