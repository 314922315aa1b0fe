"""Writes a llama of random weights, for llama.cpp: `python tiny_gguf.py FILE`.

A token is a byte. All embeddings have one component in common, which the output weights of ASCII
letters have with the same sign and those of all other tokens with the opposite one: the model
generates letters until max_tokens, and never the end of the text.
"""

# Its libraries are in a separate environment:
# mypy: ignore-errors
import string
import sys

import gguf
import numpy as np

NAME = "tiny-random-llama"
CONTEXT, WIDTH, LAYERS, HEADS, KV_HEADS, INNER = 4096, 64, 2, 4, 2, 128
CONTROL = (b"<unk>", b"<s>", b"</s>")
TOKENS = (*CONTROL, *(b"<0x%02X>" % byte for byte in range(256)))
TYPES = (gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL)
TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"

random = np.random.default_rng(20)


def weights(*shape):
    return (random.standard_normal(shape) * 0.05).astype(np.float32)


writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_name(NAME)
writer.add_context_length(CONTEXT)
writer.add_embedding_length(WIDTH)
writer.add_block_count(LAYERS)
writer.add_feed_forward_length(INNER)
writer.add_head_count(HEADS)
writer.add_head_count_kv(KV_HEADS)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_dimension_count(WIDTH // HEADS)
writer.add_vocab_size(len(TOKENS))
writer.add_file_type(gguf.LlamaFileType.ALL_F32)
writer.add_tokenizer_model("llama")
writer.add_token_list(TOKENS)
writer.add_token_scores([0.0] * len(TOKENS))
writer.add_token_types([*map(int, TYPES), *[int(gguf.TokenType.BYTE)] * 256])
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)
writer.add_unk_token_id(0)
writer.add_add_bos_token(True)
writer.add_chat_template(TEMPLATE)

letters = {len(CONTROL) + byte for byte in string.ascii_letters.encode()}
signs = np.array([0.2 if token in letters else -0.2 for token in range(len(TOKENS))])
output = weights(len(TOKENS), WIDTH) + signs.astype(np.float32)[:, None]
writer.add_tensor("token_embd.weight", 1 + weights(len(TOKENS), WIDTH))
writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
writer.add_tensor("output.weight", output)
KV_WIDTH = WIDTH // HEADS * KV_HEADS
for layer in range(LAYERS):
    for name, *shape in (
        ("attn_q", WIDTH, WIDTH),
        ("attn_k", KV_WIDTH, WIDTH),
        ("attn_v", KV_WIDTH, WIDTH),
        ("attn_output", WIDTH, WIDTH),
        ("ffn_gate", INNER, WIDTH),
        ("ffn_up", INNER, WIDTH),
        ("ffn_down", WIDTH, INNER),
    ):
        writer.add_tensor(f"blk.{layer}.{name}.weight", weights(*shape))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
