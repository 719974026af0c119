"""Reading GGUF files (llama.cpp's format) into the published layout: config, weights by their names, tokenizer."""
