"""The network in JAX: what llama.cpp's `llama` architecture computes for a MoE file."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tokens import N_VOCAB


class Shape(NamedTuple):
    """Sizes of the model; the names are those of the GGUF keys."""

    n_vocab: int = N_VOCAB
    n_layer: int = 6
    n_embd: int = 192
    n_head: int = 6
    n_head_kv: int = 2
    n_expert: int = 8
    n_expert_used: int = 2
    n_ff: int = 128
    n_ctx: int = 1024
    rope_base: float = 10000.0
    rms_eps: float = 1e-5

    @property
    def n_rot(self):
        return self.n_embd // self.n_head


# Room for an expert's tokens, over the even share. Tokens beyond it skip the
# expert; the balance loss keeps them rare. llama.cpp has no such limit.
ROOM = 1.25


def init(shape, key):
    """Random weights; matrices are [in, out], the layers stacked in front."""
    layers, embd, ff = shape.n_layer, shape.n_embd, shape.n_ff
    kv = shape.n_head_kv * shape.n_rot
    keys = iter(jax.random.split(key, 16))

    def matrix(*size, gain=1.0):
        return jax.random.normal(next(keys), size, jnp.float32) * gain * size[-2] ** -0.5

    deep = (2 * layers) ** -0.5
    return {
        "token_embd": jax.random.normal(next(keys), (shape.n_vocab, embd)) * 0.5,
        "output": matrix(embd, shape.n_vocab),
        "output_norm": jnp.ones(embd),
        "blk": {
            "attn_norm": jnp.ones((layers, embd)),
            "attn_q": matrix(layers, embd, embd),
            "attn_k": matrix(layers, embd, kv),
            "attn_v": matrix(layers, embd, kv),
            "attn_output": matrix(layers, embd, embd, gain=deep),
            "ffn_norm": jnp.ones((layers, embd)),
            "ffn_gate_inp": matrix(layers, embd, shape.n_expert),
            "ffn_gate_exps": matrix(layers, shape.n_expert, embd, ff),
            "ffn_up_exps": matrix(layers, shape.n_expert, embd, ff),
            "ffn_down_exps": matrix(layers, shape.n_expert, ff, embd, gain=deep),
        },
    }


def norm(x, weight, eps):
    """RMS norm."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope(x, base):
    """Rotates the first half of a head against the second. x: [rows, tokens, heads, n_rot].

    llama.cpp's `llama` rotates neighbouring pairs instead; `export.py` reorders
    the columns of the query and key matrices, so that both compute the same.
    """
    tokens, half = x.shape[1], x.shape[-1] // 2
    angle = jnp.arange(tokens)[:, None] * base ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def attention(x, w, bias, shape):
    """Grouped-query attention. bias: [rows, tokens, tokens], 0 where a token may look."""
    rows, tokens, _ = x.shape
    kv, group, n_rot = shape.n_head_kv, shape.n_head // shape.n_head_kv, shape.n_rot
    q = rope((x @ w["attn_q"]).reshape(rows, tokens, shape.n_head, n_rot), shape.rope_base)
    k = rope((x @ w["attn_k"]).reshape(rows, tokens, kv, n_rot), shape.rope_base)
    v = (x @ w["attn_v"]).reshape(rows, tokens, kv, n_rot)
    # The heads of a group share keys and values: one product for the whole group.
    q = (q * n_rot**-0.5).reshape(rows, tokens, kv, group, n_rot).transpose(0, 2, 3, 1, 4)
    q = q.reshape(rows, kv, group * tokens, n_rot)
    scores = jnp.einsum("rhqd,rkhd->rhqk", q, k).reshape(rows, kv, group, tokens, tokens)
    seen = jax.nn.softmax(scores + bias[:, None, None], axis=-1).reshape(rows, kv, group * tokens, tokens)
    seen = jnp.einsum("rhqk,rkhd->rhqd", seen, v).reshape(rows, kv, group, tokens, n_rot)
    return seen.transpose(0, 3, 1, 2, 4).reshape(rows, tokens, -1) @ w["attn_output"]


# Sending rows to the experts and back is a gather both ways: the gradient of
# each gather is the gather by the inverse index, which is cheap on a CPU.
@jax.custom_vjp
def gather(x, index, inverse):
    """Rows of x by index, zero where the index is out of range."""
    return jnp.take(x, index, axis=0, mode="fill", fill_value=0)


def _gather_forward(x, index, inverse):
    return gather(x, index, inverse), (inverse, x.shape[0])


def _gather_backward(kept, grad):
    inverse, rows = kept
    back = jnp.take(grad, inverse, axis=0, mode="fill", fill_value=0)
    return back.reshape(rows, -1, grad.shape[-1]).sum(axis=1), None, None


gather.defvjp(_gather_forward, _gather_backward)


def experts(x, w, shape, room):
    """The MoE feed-forward part. x: [tokens, n_embd]. Returns the sum and the balance loss."""
    tokens, used, n_expert = x.shape[0], shape.n_expert_used, shape.n_expert
    probs = jax.nn.softmax(x @ w["ffn_gate_inp"], axis=-1)
    best, chosen = jax.lax.top_k(probs, used)
    share = best / best.sum(axis=-1, keepdims=True)

    # Each choice gets a place in its expert's part of the work list.
    picks = jax.nn.one_hot(chosen.reshape(-1), n_expert, dtype=jnp.int32)
    rank = ((jnp.cumsum(picks, axis=0) - 1) * picks).sum(axis=-1)
    capacity = tokens if room is None else int(room * tokens * used / n_expert)
    nowhere = n_expert * capacity
    place = jnp.where(rank < capacity, chosen.reshape(-1) * capacity + rank, nowhere)
    choice_at = jnp.full(nowhere, tokens * used).at[place].set(jnp.arange(tokens * used), mode="drop")
    token_at = jnp.where(choice_at < tokens * used, choice_at // used, tokens)

    work = gather(x, token_at, place).reshape(n_expert, capacity, -1)
    hidden = jax.nn.silu(jnp.einsum("ecd,edf->ecf", work, w["ffn_gate_exps"]))
    hidden *= jnp.einsum("ecd,edf->ecf", work, w["ffn_up_exps"])
    done = jnp.einsum("ecf,efd->ecd", hidden, w["ffn_down_exps"]).reshape(nowhere, -1)
    back = gather(done, place, choice_at).reshape(tokens, used, -1)

    load = picks.sum(axis=0) / (tokens * used)
    balance = n_expert * (load * probs.mean(axis=0)).sum()
    return (back * share[..., None]).sum(axis=1), (balance, load)


@partial(jax.jit, static_argnames=("shape", "room"))
def forward(params, tokens, segments, shape, room=None):
    """Logits [rows, tokens, n_vocab], the mean balance loss, and each expert's load per layer.

    A token sees the earlier ones of its own segment, that is, of its conversation.
    """
    rows, length = tokens.shape
    causal = jnp.tril(jnp.ones((length, length), bool))
    visible = causal & (segments[:, :, None] == segments[:, None, :])
    bias = jnp.where(visible, 0.0, -1e30)

    def layer(x, w):
        x = x + attention(norm(x, w["attn_norm"], shape.rms_eps), w, bias, shape)
        flat = norm(x, w["ffn_norm"], shape.rms_eps).reshape(rows * length, -1)
        out, (balance, load) = experts(flat, w, shape, room)
        return x + out.reshape(x.shape), (balance, load)

    x, balance, loads = params["token_embd"][tokens], 0.0, []
    for i in range(shape.n_layer):
        x, (one, load) = layer(x, jax.tree.map(lambda leaf: leaf[i], params["blk"]))
        balance += one / shape.n_layer
        loads.append(load)
    x = norm(x, params["output_norm"], shape.rms_eps)
    return x @ params["output"], balance, jnp.stack(loads)
