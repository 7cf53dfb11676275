"""Serve a GGUF file by llama.cpp until killed: `python llama_server.py FILE PORT [KEY]`."""

import sys
import time

import xllamacpp


def main() -> None:
    """Start the server and wait."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.port = sys.argv[1], int(sys.argv[2])
    parameters.n_parallel, parameters.n_ctx = 4, 4 * 1024
    # Threads that wait for each other in busy loops crawl beside anything else.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    # Scores are compared with those of float32.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.api_keys = sys.argv[3:]
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    time.sleep(1e9)


main()
