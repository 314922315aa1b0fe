"""Writes a tiny Llama without weights into a folder: `python tiny_llama.py FOLDER`.

vLLM gives it random weights (--load-format dummy). One token per byte of a text.
"""

# Its libraries are in a separate environment:
# mypy: ignore-errors
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

UNKNOWN, START, END = "<unk>", "<s>", "</s>"

folder = Path(sys.argv[1])
folder.mkdir()
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {text: number for number, text in enumerate([UNKNOWN, START, END, *alphabet])}
tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens([UNKNOWN, START, END])
tokenizer.save(str(folder / "tokenizer.json"))
(folder / "tokenizer_config.json").write_text(
    json.dumps(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": START,
            "eos_token": END,
            "unk_token": UNKNOWN,
            "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
        }
    )
)
(folder / "config.json").write_text(
    json.dumps(
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": len(vocabulary),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "bos_token_id": vocabulary[START],
            "eos_token_id": vocabulary[END],
            "torch_dtype": "bfloat16",
        }
    )
)
