#!/usr/bin/env python3
"""Trains the bundled model from scratch and writes it as GGUF.

    python train.py                  the shipped model, in well under an hour on two cores
    python train.py --steps 50       a short try
"""

import os
import sys

# All before JAX starts. Without the first, each step gets its buffers anew from
# the system, page by page, which takes a third of the time.
if "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = (
        "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
        "glibc.malloc.trim_threshold=8000000000:glibc.malloc.top_pad=500000000"
    )
    os.execv(sys.executable, [sys.executable, *sys.argv])
# Two threads: JAX takes as many as the process may have cores.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import hashlib
import pickle
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import model
from corpus import Corpus, random_source
from export import write_gguf
from tokens import PAD, START, Encoder, train_tokenizer

SEED = 20
STEPS = 2220
TOKENS_PER_STEP = 2048
# What a step trains on. First the language of the replies; then mostly which reply a
# question gets, which its first tokens decide; then whole replies again; at last whole
# conversations, with questions that refer to the reply before them.
PHASES = [
    # until step, wordings of further.txt, row length, share of conversations whose last
    # reply is cut, after how many tokens, and how many times more small talk
    (500, False, 256, 0.5, 16, 1),
    (800, False, 128, 0.92, 8, 1),
    (1700, True, 128, 0.88, 8, 2),
    (1900, True, 256, 0.5, 16, 2),
    (2100, True, 512, 0.1, 16, 2),
    (STEPS, True, 512, 0.1, 16, 6),
]
# Questions count a little too: it teaches which words go together.
QUESTION_LOSS = 0.1
BALANCE_LOSS = 0.02
SAVE_EVERY = 100


class Batches:
    """Rows of packed conversations, composed anew for every step."""

    def __init__(self, corpora, encoder, seed):
        self.corpora, self.encoder = corpora, encoder
        self.rng = random_source(seed, "batches")

    def conversation(self, further, length, cut, cut_to, small_talk):
        """Tokens and loss weights of one conversation, at most a row long."""
        turns = self.rng.choices([1, 2, 3, 5, 16], [48, 24, 14, 8, 6])[0]
        if length < 256:
            turns = 1 + (turns > 1 and self.rng.random() < 0.4)
        if length > 256:
            turns = self.rng.choices([1, 2, 3, 5, 8], [12, 30, 25, 20, 13])[0]
        messages = self.corpora[further].conversation(turns, self.rng, curious=length > 256, small_talk=small_talk)
        tokens, weights = self.encoder.conversation(messages, QUESTION_LOSS)
        if self.rng.random() < cut:
            reply = len(tokens) - 1 - tokens[::-1].index(START)
            tokens = tokens[: reply + cut_to]
        return tokens[: length + 1], weights[: length + 1]

    def row(self, further, length, cut, cut_to, small_talk):
        """Tokens, targets, loss weights and segments of one row."""
        row = np.full((4, length), PAD, np.float32)
        at, segment = 0, 1
        while at < length:
            tokens, weights = self.conversation(further, length, cut, cut_to, small_talk)
            n = min(len(tokens) - 1, length - at)
            row[0, at : at + n] = tokens[:n]
            row[1, at : at + n] = tokens[1 : n + 1]
            row[2, at : at + n] = weights[1 : n + 1]
            row[3, at : at + n] = segment
            at, segment = at + n, segment + 1
        return row

    def batch(self, step):
        """Arrays [rows, length]: tokens, targets, weights, segments."""
        phase = next(phase for until, *phase in PHASES if step <= until)
        rows = np.stack([self.row(*phase) for _ in range(TOKENS_PER_STEP // phase[1])])
        tokens, targets, weights, segments = rows.transpose(1, 0, 2)
        return tokens.astype(np.int32), targets.astype(np.int32), weights, segments.astype(np.int32)


def loss_of(params, batch, shape):
    """The loss, and what is worth printing."""
    tokens, targets, weights, segments = batch
    logits, balance, loads = model.forward(params, tokens, segments, shape, room=model.ROOM)
    logits_of_targets = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    loss = ((log_z - logits_of_targets) * weights).sum() / weights.sum()
    replies = weights == 1.0
    right = ((logits_of_targets >= logits.max(axis=-1)) & replies).sum() / replies.sum()
    total = loss + BALANCE_LOSS * balance
    return total, {"loss": loss, "right": right, "balance": balance, "loads": loads}


def rate(step):
    """The learning rate: up, level, down; and up again, less, at each change to conversations."""
    first = 2e-3 * jnp.minimum(jnp.minimum((step + 1) / 100, (1940 - step) / 776), 1.0)
    then = 8e-4 * jnp.minimum((step + 1 - 1900) / 20, (2160 - step) / (2160 - 1900))
    last = 5e-4 * jnp.minimum((step + 1 - 2100) / 10, (STEPS - step) / (STEPS - 2100))
    return jnp.where(step < 1900, first, jnp.where(step < 2100, then, last))


def optimiser():
    """AdamW; vectors and routers do not decay."""
    decays = lambda params: jax.tree.map(lambda leaf: leaf.ndim >= 2 and leaf.shape[-1] > 8, params)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, b1=0.9, b2=0.98, weight_decay=0.05, mask=decays),
    )


def train(steps, out, checkpoint):
    corpora = {further: Corpus(further) for further in (False, True)}
    tokenizer = train_tokenizer(corpora[False], SEED)
    batches = Batches(corpora, Encoder(tokenizer), SEED)
    shape = model.Shape()
    params = model.init(shape, jax.random.key(SEED))
    print(f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters", flush=True)
    update_rule = optimiser()
    state = update_rule.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch):
        grads, seen = jax.grad(loss_of, has_aux=True)(params, batch, shape)
        updates, state = update_rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state, seen

    done = 0
    if checkpoint and checkpoint.exists():
        done, params, state = pickle.loads(checkpoint.read_bytes())
        print(f"going on after step {done}", flush=True)
    start = time.monotonic()
    for i in range(1, steps + 1):
        batch = batches.batch(i)
        if i <= done:
            continue
        params, state, seen = step(params, state, batch)
        if checkpoint and i % SAVE_EVERY == 0:
            checkpoint.write_bytes(pickle.dumps((i, *jax.device_get((params, state)))))
        if i % 50 == 0 or i == 1 or i == steps:
            loads = np.asarray(seen["loads"])
            print(
                f"step {i}: loss {seen['loss']:.4f}, replies' tokens right {seen['right']:.2%}, "
                f"expert load {loads.min():.3f}..{loads.max():.3f}, {time.monotonic() - start:.0f} s",
                flush=True,
            )
        if i == steps or (checkpoint and i % SAVE_EVERY == 0):
            write_gguf(out, params, tokenizer, shape)
    digest = hashlib.sha256(Path(out).read_bytes()).hexdigest()
    print(f"{out}: {Path(out).stat().st_size:,} bytes, sha256 {digest}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", default=str(Path(__file__).parent / "moe-guide-q8_0.gguf"))
    parser.add_argument("--checkpoint", type=Path, help="save here now and then, and go on from here if it exists")
    options = parser.parse_args()
    train(options.steps, options.out, options.checkpoint)
