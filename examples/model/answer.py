"""Reads the GGUF file back and asks it with the JAX network, to check without llama.cpp."""

import gguf
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import model
from export import separate
from tokens import END, PAD, SPECIAL, Encoder


class Guide:
    """The shipped file: its tokenizer, and its weights as they are after quantisation."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.shape = model.Shape()
        self.tokenizer = self._tokenizer(reader)
        self.encoder = Encoder(self.tokenizer)
        self.params = self._params(reader)

    @staticmethod
    def _tokenizer(reader):
        vocab = reader.get_field("tokenizer.ggml.tokens").contents()
        merges = [tuple(merge.split(" ")) for merge in reader.get_field("tokenizer.ggml.merges").contents()]
        tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(vocab)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(SPECIAL)
        return tokenizer

    def _params(self, reader):
        data = {
            tensor.name.removesuffix(".weight"): gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for tensor in reader.tensors
        }
        blocks = {}
        for name, block in data.items():
            if name.startswith("blk."):
                _, _, role = name.split(".")
                if role in ("attn_q", "attn_k"):
                    block = separate(block, self.shape.n_rot)
                blocks.setdefault(role, []).append(block if block.ndim == 1 else np.swapaxes(block, -1, -2))
        return {
            "token_embd": jnp.asarray(data["token_embd"]),
            "output": jnp.asarray(data["output"].T),
            "output_norm": jnp.asarray(data["output_norm"]),
            "blk": {role: jnp.asarray(np.stack(layers)) for role, layers in blocks.items()},
        }

    def replies(self, conversations, at_most=200, length=512):
        """Greedy replies to conversations, and whether each ended by itself."""
        rows = [self.encoder.prompt(messages) for messages in conversations]
        starts = [len(row) for row in rows]
        done = [False] * len(rows)
        for _ in range(at_most):
            open_rows = [i for i, ended in enumerate(done) if not ended]
            if not open_rows:
                break
            width = -(-max(len(rows[i]) for i in open_rows) // 64) * 64
            tokens = np.full((len(open_rows), min(width, length)), PAD, np.int32)
            for place, i in enumerate(open_rows):
                tokens[place, : len(rows[i])] = rows[i]
            logits, _, _ = model.forward(self.params, tokens, np.ones_like(tokens), self.shape)
            for place, i in enumerate(open_rows):
                token = int(logits[place, len(rows[i]) - 1].argmax())
                done[i] = token == END or len(rows[i]) + 1 >= length
                if token != END:
                    rows[i].append(token)
        return [self.tokenizer.decode(row[start:]) for row, start in zip(rows, starts)], done

    def says(self, messages, answer):
        """Whether the greedy reply to a conversation is exactly this answer and then ends."""
        return self.say_all([(messages, answer)])[0]

    def say_all(self, cases, rows=32):
        """`says` for many, in batches: one forward pass each, no generation."""
        results = []
        for start in range(0, len(cases), rows):
            part = cases[start : start + rows]
            prompts = [self.encoder.prompt(messages) for messages, _ in part]
            answers = [[*self.encoder.text(answer), END] for _, answer in part]
            longest = max(len(p) + len(a) for p, a in zip(prompts, answers))
            tokens = np.full((rows, -(-longest // 64) * 64), PAD, np.int32)
            for place, (prompt, reply) in enumerate(zip(prompts, answers)):
                tokens[place, : len(prompt) + len(reply)] = prompt + reply
            logits, _, _ = model.forward(self.params, tokens, np.ones_like(tokens), self.shape)
            best = np.asarray(logits.argmax(axis=-1))
            for place, (prompt, reply) in enumerate(zip(prompts, answers)):
                at = len(prompt) - 1
                results.append(bool((best[place, at : at + len(reply)] == reply).all()))
        return results
