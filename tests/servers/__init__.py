"""Real servers for tests: llama.cpp, vLLM, and a proxy that breaks what passes through it."""
