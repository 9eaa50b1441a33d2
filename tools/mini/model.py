# quern-mini in torch: the mixture-of-experts text model of the family with its prediction head.
# SPDX-License-Identifier: Apache-2.0
"""Two ways to compute it. Plain: ordinary torch operations, on a CPU in fp32, the reference of the other; on a GPU with BF16
products, and without a step that waits for the device, so that it can be recorded as a graph. Fast: fused CPU operations
(ops.cpp) with BF16 products. check_model.py compares both with each other and with the classes of the transformers package."""

import math
import os

import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIG = dict(vocab_size=4096, hidden_size=128, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
              head_dim=64, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=32,
              linear_value_head_dim=32, linear_conv_kernel_dim=4, num_experts=8, num_experts_per_tok=2,
              moe_intermediate_size=128, shared_expert_intermediate_size=128, rms_norm_eps=1e-6,
              rope_theta=10000.0, partial_rotary_factor=0.25)

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
_ops = None


def ops():
    """The compiled operations; built on first use."""
    global _ops
    if _ops is None:
        from torch.utils.cpp_extension import load
        here = os.path.dirname(os.path.abspath(__file__))
        _ops = load("quern_mini_ops_4", [os.path.join(here, "ops.cpp")],
                    extra_cflags=["-O3", "-march=native", "-ffast-math", "-fopenmp", "-Wno-sign-compare"],
                    extra_ldflags=["-lgomp"], verbose=False)
    return _ops


class GdnFast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p, conv, a_log, dt_bias, norm, nk, nv, eps):
        ctx.save_for_backward(p, conv, a_log, dt_bias, norm)
        ctx.dims = (nk, nv, eps)
        return ops().gdn_fwd(p, conv, a_log, dt_bias, norm, nk, nv, eps)

    @staticmethod
    def backward(ctx, dy):
        return (*ops().gdn_bwd(dy.contiguous(), *ctx.saved_tensors, *ctx.dims), None, None, None)


class AttentionFast(torch.autograd.Function):
    """Head norms, rope, causal attention and output gate of a whole sequence from position 0."""

    @staticmethod
    def forward(ctx, p, q_norm, k_norm, cos, sin, dims):
        b, t, nh, nkv, hd, rot, eps = dims
        q, k, v = ops().attn_fwd(p, q_norm, k_norm, cos, sin, *dims)
        own = ops().causal_fwd(q, k, v) if hd == 64 else []
        o, lse = own or torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
        ctx.save_for_backward(p, q_norm, k_norm, cos, sin, q, k, v, o, lse)
        ctx.dims, ctx.own = dims, bool(own)
        return ops().gate_fwd(o, p, b, t, nh, hd)

    @staticmethod
    def backward(ctx, dy):
        p, q_norm, k_norm, cos, sin, q, k, v, o, lse = ctx.saved_tensors
        b, t, nh, nkv, hd, rot, eps = ctx.dims
        dp = torch.empty_like(p)
        do = ops().gate_bwd(dy.contiguous(), o, p, dp, b, t, nh, hd)
        if ctx.own:
            dq, dk, dv = ops().causal_bwd(do, q, k, v, o, lse)
        else:
            dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(do, q, k, v, o, lse, 0.0, True)
        dqw, dkw = ops().attn_bwd(dq, dk, dv, p, dp, q_norm, k_norm, cos, sin, *ctx.dims)
        return dp, dqw, dkw, None, None, None


class NormFast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, w, eps):
        xo, h = ops().norm_fwd(x, y, w, eps)
        ctx.save_for_backward(xo, w)
        ctx.eps, ctx.add = eps, y.numel() > 0
        ctx.set_materialize_grads(False)
        if not ctx.add:
            ctx.mark_non_differentiable(xo) if False else None
            return x.view_as(x), h
        return xo, h

    @staticmethod
    def backward(ctx, dxo, dh):
        xo, w = ctx.saved_tensors
        if dh is None:
            dh = torch.zeros_like(xo, dtype=torch.bfloat16)
        dx, dy, dw = ops().norm_bwd(dxo.contiguous() if dxo is not None else xo.new_empty(0), dh.contiguous(), xo, w, ctx.eps)
        return dx, dy if ctx.add else None, dw, None


class ExpertsFast(torch.autograd.Function):
    """Routed experts 0..E-1 and the shared expert (index E) of every token, weighted and summed. Each expert's rows start
    at a multiple of 64 and end with zero rows: the library compiles a product for every new shape, so shapes must recur."""

    @staticmethod
    def forward(ctx, h, index, weight, gate_up, down):
        o = ops()
        e = gate_up.shape[0] - 1
        xs, pos, ends = o.route(h, index, e)
        spans = list(zip([0] + ends[:-1].tolist(), ends.tolist()))
        gu = torch.empty((xs.shape[0], gate_up.shape[1]), dtype=h.dtype)
        ys = torch.empty_like(xs)
        for i, (lo, hi) in enumerate(spans):
            if hi > lo:
                torch.mm(xs[lo:hi], gate_up[i].t(), out=gu[lo:hi])
        act = o.swiglu_fwd(gu)
        for i, (lo, hi) in enumerate(spans):
            if hi > lo:
                torch.mm(act[lo:hi], down[i].t(), out=ys[lo:hi])
        ctx.save_for_backward(xs, gu, act, ys, pos, weight, gate_up, down)
        ctx.spans = spans
        return o.combine(ys, pos, weight)

    @staticmethod
    def backward(ctx, dout):
        o = ops()
        xs, gu, act, ys, pos, weight, gate_up, down = ctx.saved_tensors
        dys, dw = o.combine_bwd(dout.contiguous(), ys, pos, weight)
        da = torch.empty_like(act)
        dgate_up, ddown = torch.zeros_like(gate_up), torch.zeros_like(down)
        for i, (lo, hi) in enumerate(ctx.spans):
            if hi > lo:
                torch.mm(dys[lo:hi], down[i], out=da[lo:hi])
                torch.mm(dys[lo:hi].t(), act[lo:hi], out=ddown[i])
        dgu = o.swiglu_bwd(da, gu)
        dxs = torch.empty_like(xs)
        for i, (lo, hi) in enumerate(ctx.spans):
            if hi > lo:
                torch.mm(dgu[lo:hi], gate_up[i], out=dxs[lo:hi])
                torch.mm(dgu[lo:hi].t(), xs[lo:hi], out=dgate_up[i])
        return o.combine(dxs, pos, weight.new_empty(0)), None, dw, dgate_up, ddown


class CrossEntropyFast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, weight):
        loss, right, d = ops().cross_entropy(logits, target, weight)
        ctx.save_for_backward(d)
        ctx.mark_non_differentiable(right)
        return (loss * weight).sum(), right

    @staticmethod
    def backward(ctx, g, _):
        return ctx.saved_tensors[0].mul_(g.to(torch.bfloat16)), None, None


def product(x, w):
    """x @ w.t(), of BF16 on a GPU."""
    dt = torch.bfloat16 if x.is_cuda else x.dtype
    return F.linear(x.to(dt), w.to(dt))


def rms_norm(x, w, eps):
    xf = x.float()
    return xf * torch.rsqrt(xf.pow(2).mean(-1, keepdim=True) + eps) * (1 + w)


def gdn_chunks(q, k, v, g, beta, chunk=64):
    """Chunked gated delta rule. q k [B,h,T,DK] (q scaled), v [B,h,T,DV], g beta [B,h,T]; all fp32."""
    b, h, t, _ = q.shape
    pad = -t % chunk
    q, k, v = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
    g, beta = (F.pad(x, (0, pad)) for x in (g, beta))
    q, k, v = (x.view(b, h, -1, chunk, x.shape[-1]) for x in (q, k, v))
    g, beta = (x.view(b, h, -1, chunk) for x in (g, beta))
    cum = g.cumsum(-1)
    low = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    decay = (cum[..., :, None] - cum[..., None, :]).masked_fill(~low, float("-inf")).exp()
    kb = k * beta[..., None]
    a = ((kb @ k.transpose(-1, -2)) * decay).tril(-1) + torch.eye(chunk, device=q.device)
    rhs = torch.cat([v * beta[..., None], kb * cum.exp()[..., None]], -1)
    u, w = torch.linalg.solve_triangular(a, rhs, upper=False, unitriangular=True).split([v.shape[-1], k.shape[-1]], -1)
    inner = (q @ k.transpose(-1, -2)) * decay
    last = cum[..., -1:]
    kd = (k * (last - cum).exp()[..., None]).transpose(-1, -2)
    step = last.exp()[..., None] * torch.eye(k.shape[-1], device=q.device) - kd @ w  # the state after a chunk: step @ state + add
    add = kd @ u
    states = [q.new_zeros(b * h, k.shape[-1], v.shape[-1])]
    for i in range(q.shape[2] - 1):
        states.append(torch.baddbmm(add[:, :, i].flatten(0, 1), step[:, :, i].flatten(0, 1), states[-1]))
    state = torch.stack(states, 1).unflatten(0, (b, h))
    out = (q * cum.exp()[..., None]) @ state + inner @ (u - w @ state)
    return out.flatten(2, 3)[:, :, :t]


def spread(x, times):
    """Each head of [B, heads, T, D] as many times, one after the other."""
    return x[:, :, None].expand(-1, -1, times, -1, -1).flatten(1, 2)


def weight(*shape, std=None):
    return nn.Parameter(torch.randn(*shape) * (std or 1 / math.sqrt(shape[-1])))


class Linear(nn.Module):
    def __init__(self, n, k, std=None):
        super().__init__()
        self.weight = weight(n, k, std=std)


class Norm(nn.Module):
    def __init__(self, n, one=False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n) if one else torch.zeros(n))


class Conv(nn.Module):
    def __init__(self, n, taps):
        super().__init__()
        w = torch.randn(n, 1, taps) * 0.2
        w[:, 0, -1] += 0.6
        self.weight = nn.Parameter(w)


class LinearAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, nk, nv = c["hidden_size"], c["linear_num_key_heads"], c["linear_num_value_heads"]
        self.nk, self.nv, self.dk, self.dv, self.eps = nk, nv, c["linear_key_head_dim"], c["linear_value_head_dim"], c["rms_norm_eps"]
        kd, vd = nk * self.dk, nv * self.dv
        self.kd, self.vd = kd, vd
        self.in_proj_qkv, self.in_proj_z = Linear(2 * kd + vd, h), Linear(vd, h)
        self.in_proj_b, self.in_proj_a = Linear(nv, h), Linear(nv, h)
        self.conv1d = Conv(2 * kd + vd, c["linear_conv_kernel_dim"])
        self.A_log = nn.Parameter(torch.log(torch.empty(nv).uniform_(0.5, 8)))
        dt = torch.exp(torch.linspace(math.log(0.002), math.log(0.1), nv))
        self.dt_bias = nn.Parameter(torch.log(torch.expm1(dt)))
        self.norm = Norm(self.dv, one=True)
        self.out_proj = Linear(h, vd)

    def forward(self, x, fast):
        b, t, _ = x.shape
        w = torch.cat([self.in_proj_qkv.weight, self.in_proj_z.weight, self.in_proj_b.weight, self.in_proj_a.weight])
        if fast:
            p = F.linear(x, w.to(torch.bfloat16))
            y = GdnFast.apply(p, self.conv1d.weight.squeeze(1), self.A_log, self.dt_bias, self.norm.weight, self.nk, self.nv, self.eps)
            return F.linear(y, self.out_proj.weight.to(torch.bfloat16))
        u, z, beta, a = product(x, w).float().split([2 * self.kd + self.vd, self.vd, self.nv, self.nv], -1)
        u = F.pad(u, (0, 0, 3, 0))
        u = F.silu(sum(u[:, j:j + t] * self.conv1d.weight[:, 0, j] for j in range(4)))
        q, k, v = u.split([self.kd, self.kd, self.vd], -1)
        q, k = (spread(s.reshape(b, t, self.nk, self.dk).transpose(1, 2), self.nv // self.nk) for s in (q, k))
        q, k = (s * torch.rsqrt((s * s).sum(-1, keepdim=True) + 1e-6) for s in (q, k))
        v = v.reshape(b, t, self.nv, self.dv).transpose(1, 2)
        g = -self.A_log.exp() * F.softplus(a + self.dt_bias)
        o = gdn_chunks(q * self.dk ** -0.5, k, v, g.transpose(1, 2), beta.sigmoid().transpose(1, 2)).transpose(1, 2)
        o = o * torch.rsqrt(o.pow(2).mean(-1, keepdim=True) + self.eps) * self.norm.weight
        o = o * F.silu(z.reshape(b, t, self.nv, self.dv))
        return product(o.reshape(b, t, -1), self.out_proj.weight)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        h = c["hidden_size"]
        self.nh, self.nkv, self.hd, self.eps = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["rms_norm_eps"]
        self.rot = int(self.hd * c["partial_rotary_factor"])
        self.theta = c["rope_theta"]
        self.q_proj = Linear(self.nh * 2 * self.hd, h)
        self.k_proj, self.v_proj = Linear(self.nkv * self.hd, h), Linear(self.nkv * self.hd, h)
        self.o_proj = Linear(h, self.nh * self.hd)
        self.q_norm, self.k_norm = Norm(self.hd), Norm(self.hd)

    def rope(self, x, pos):
        half = self.rot // 2
        inv = 1.0 / self.theta ** (torch.arange(half, dtype=torch.float32, device=x.device) * 2 / self.rot)
        f = pos.float()[..., None] * inv
        cos, sin = f.cos()[:, None].to(x.dtype), f.sin()[:, None].to(x.dtype)
        a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def forward(self, x, fast, pos=None, cache=None):
        b, t, _ = x.shape
        if pos is None:
            pos = torch.arange(t, device=x.device)[None]
        dt = torch.bfloat16 if fast or x.is_cuda else torch.float32
        w = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight]).to(dt)
        if fast and cache is None:
            f = torch.arange(t).float()[:, None] / self.theta ** (torch.arange(self.rot // 2).float() * 2 / self.rot)
            y = AttentionFast.apply(F.linear(x, w).view(b * t, -1), self.q_norm.weight, self.k_norm.weight, f.cos(), f.sin(),
                                    (b, t, self.nh, self.nkv, self.hd, self.rot, self.eps))
            return F.linear(y, self.o_proj.weight.to(dt)).view(b, t, -1)
        q, k, v = product(x, w).split([self.nh * 2 * self.hd, self.nkv * self.hd, self.nkv * self.hd], -1)
        q, gate = q.reshape(b, t, self.nh, 2 * self.hd).split(self.hd, -1)
        q = rms_norm(q, self.q_norm.weight, self.eps).to(dt).transpose(1, 2)
        k = rms_norm(k.reshape(b, t, self.nkv, self.hd), self.k_norm.weight, self.eps).to(dt).transpose(1, 2)
        v = v.reshape(b, t, self.nkv, self.hd).transpose(1, 2)
        q, k = self.rope(q, pos), self.rope(k, pos)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        r = self.nh // self.nkv
        o = F.scaled_dot_product_attention(q, spread(k, r), spread(v, r), is_causal=t > 1)
        o = o.transpose(1, 2) * torch.sigmoid(gate)
        return product(o.reshape(b, t, -1), self.o_proj.weight)


class Mlp(nn.Module):
    def __init__(self, h, i):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = Linear(i, h), Linear(i, h), Linear(h, i)


class ExpertWeights(nn.Module):
    def __init__(self, e, h, i):
        super().__init__()
        self.gate_up_proj, self.down_proj = weight(e, 2 * i, h), weight(e, h, i)


class Moe(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, self.e, self.k = c["hidden_size"], c["num_experts"], c["num_experts_per_tok"]
        self.gate = Linear(self.e, h, std=0.05)
        self.experts = ExpertWeights(self.e, h, c["moe_intermediate_size"])
        self.shared_expert = Mlp(h, c["shared_expert_intermediate_size"])
        self.shared_expert_gate = Linear(1, h, std=0.02)
        self.balance = None

    def forward(self, x, fast):
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        dt = torch.bfloat16 if fast or x.is_cuda else torch.float32
        r = product(x, torch.cat([self.gate.weight, self.shared_expert_gate.weight])).float()
        p = r[:, :self.e].softmax(-1)
        top, index = p.topk(self.k, -1)
        if self.training:  # load balance in the usual form: E * sum_e share_e * mean_e p
            share = p.new_zeros(self.e).scatter_add(0, index.reshape(-1), p.new_ones(index.numel())) / index.numel()
            self.balance = self.e * (share * p.mean(0)).sum()
        w = torch.cat([top / top.sum(-1, keepdim=True), r[:, self.e:].sigmoid()], -1)
        s = self.shared_expert
        gate_up = torch.cat([self.experts.gate_up_proj, torch.cat([s.gate_proj.weight, s.up_proj.weight])[None]]).to(dt)
        down = torch.cat([self.experts.down_proj, s.down_proj.weight[None]]).to(dt)
        if fast:
            return ExpertsFast.apply(x, index, w, gate_up, down).view(shape)
        full = torch.cat([w.new_zeros(x.shape[0], self.e).scatter(1, index, w[:, :self.k]), w[:, self.k:]], -1)
        g, u = product(x, gate_up.flatten(0, 1)).unflatten(-1, (self.e + 1, -1)).chunk(2, -1)  # all experts, weighted by zero where not chosen
        y = F.silu(g) * u * full.to(dt)[..., None]
        return product(y.flatten(1), down.transpose(1, 2).flatten(0, 1).t()).view(shape)


class Layer(nn.Module):
    def __init__(self, c, full):
        super().__init__()
        if full:
            self.self_attn = Attention(c)
        else:
            self.linear_attn = LinearAttention(c)
        self.full = full
        self.input_layernorm, self.post_attention_layernorm = Norm(c["hidden_size"]), Norm(c["hidden_size"])
        self.mlp = Moe(c)

    def mix(self, h, fast, **kw):
        return self.self_attn(h, fast, **kw) if self.full else self.linear_attn(h, fast)


class Mtp(nn.Module):
    def __init__(self, c):
        super().__init__()
        h = c["hidden_size"]
        self.fc = Linear(h, 2 * h)
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden, self.norm = Norm(h), Norm(h), Norm(h)
        self.layers = nn.ModuleList([Layer(c, True)])


class Stack(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = Linear(c["vocab_size"], c["hidden_size"], std=0.05)
        self.layers = nn.ModuleList([Layer(c, i % 4 == 3) for i in range(c["num_hidden_layers"])])
        self.norm = Norm(c["hidden_size"])


class Mini(nn.Module):
    def __init__(self, config=None, fast=False):
        super().__init__()
        self.c = c = dict(config or CONFIG)
        self.fast = fast
        self.model = Stack(c)
        self.mtp = Mtp(c)
        with torch.no_grad():  # residual branches start small
            for n, p in self.named_parameters():
                if n.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "down_proj")):
                    p.mul_(0.3)

    def norm(self, x, y, w):
        """Returns (x + y, norm of it); x stays fp32."""
        eps = self.c["rms_norm_eps"]
        if self.fast:
            shape = x.shape
            x, h = NormFast.apply(x.reshape(-1, shape[-1]), y.reshape(-1, shape[-1]) if y is not None else torch.empty(0, dtype=torch.bfloat16), w, eps)
            return x.view(shape), h.view(shape)
        x = x if y is None else x + y
        return x, rms_norm(x, w, eps)

    def embed(self, ids):
        w = self.model.embed_tokens.weight
        return torch.index_select(w, 0, ids.reshape(-1)).view(*ids.shape, -1) if ids.is_cuda else F.embedding(ids, w)

    def block(self, layer, x, y, **kw):
        x, h = self.norm(x, y, layer.input_layernorm.weight)
        x, h = self.norm(x, layer.mix(h, self.fast, **kw), layer.post_attention_layernorm.weight)
        return x, layer.mlp(h, self.fast)

    def hidden(self, ids):
        """Hidden states after the final norm [B, T, H]."""
        x, y = self.embed(ids), None
        for layer in self.model.layers:
            x, y = self.block(layer, x, y)
        return self.norm(x, y, self.model.norm.weight)[1]

    def mtp_hidden(self, next_ids, hidden, **kw):
        """Slot p joins hidden[p] and the token after it; returns the states after mtp.norm."""
        m = self.mtp
        _, e = self.norm(self.embed(next_ids), None, m.pre_fc_norm_embedding.weight)
        _, h = self.norm(hidden.float(), None, m.pre_fc_norm_hidden.weight)
        x = product(torch.cat([e, h], -1), m.fc.weight.to(e.dtype)).float()
        x, y = self.block(m.layers[0], x, None, **kw)
        return self.norm(x, y, m.norm.weight)[1]

    def logits(self, h):
        return product(h, self.model.embed_tokens.weight.to(h.dtype))

    def loss(self, h, target, weight):
        if self.fast:
            pad = -len(target) % 128  # recurring shapes, as for the experts
            loss, right = CrossEntropyFast.apply(self.logits(F.pad(h, (0, 0, 0, pad))), F.pad(target, (0, pad)), F.pad(weight, (0, pad)))
            return loss, right[:len(target)]
        z = self.logits(h).float()
        return (F.cross_entropy(z, target, reduction="none") * weight).sum(), (z.argmax(-1) == target).float()
