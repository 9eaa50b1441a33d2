# One training step of quern-mini: losses, gradients, update, average of the weights.
# SPDX-License-Identifier: Apache-2.0
"""On a GPU each shape of batch is recorded once as a graph and replayed: such a small model would wait for launches otherwise."""

import torch


def orthogonal(g, steps=5):
    """Newton-Schulz iteration towards the nearest orthogonal matrix; g [n, rows, cols]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    wide = x.shape[-2] <= x.shape[-1]
    if not wide:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).bfloat16() + 1e-7)
    for _ in range(steps):
        y = x @ x.mT
        x = a * x + (b * y + c * (y @ y)) @ x
    return (x if wide else x.mT).float()


class Optimiser:
    """Muon for the matrices of the blocks, Adam for the rest."""

    B1, B2 = 0.9, 0.98

    def __init__(self, model):
        self.muon, self.adam = {}, []
        for name, p in model.named_parameters():
            small = p.dim() < 2 or "embed_tokens" in name or "conv1d" in name or p.shape[-2] < 16
            if small:
                self.adam.append((name, p))
            else:
                self.muon.setdefault(tuple(p.shape[-2:]), []).append((name, p))
        self.state = {}
        self.step_count = 0

    def rates(self, lr_muon, lr_adam):
        """What the next step() is called with."""
        self.step_count += 1
        return lr_muon, lr_adam, 1 - self.B1 ** self.step_count, 1 - self.B2 ** self.step_count

    def step(self, lr_muon, lr_adam, c1, c2, decay=0.01):
        """The rates are numbers or tensors without dimensions on the model's device."""
        for shape, group in self.muon.items():
            gs, group = [], [(name, p) for name, p in group if p.grad is not None]
            if not group:
                continue
            for name, p in group:
                g = p.grad.float().reshape(-1, *shape)
                if name not in self.state:
                    self.state[name] = torch.zeros_like(g)
                m = self.state[name]
                m.lerp_(g, 0.05)
                gs.append(g.lerp(m, 0.95))
            u = orthogonal(torch.cat(gs)) * (max(1.0, shape[0] / shape[1]) ** 0.5 * lr_muon)
            at = 0
            for name, p in group:
                n = p.numel() // (shape[0] * shape[1])
                p.data.mul_(1 - lr_muon * decay).sub_(u[at:at + n].view(p.shape))
                at += n
        for name, p in self.adam:
            if p.grad is None:
                continue
            if name not in self.state:
                self.state[name] = [torch.zeros_like(p), torch.zeros_like(p)]
            m, v = self.state[name]
            m.lerp_(p.grad, 1 - self.B1)
            v.mul_(self.B2).addcmul_(p.grad, p.grad, value=1 - self.B2)
            p.data.sub_(lr_adam * (m / c1) / ((v / c2).sqrt() + 1e-8))


class Average:
    """Exponential average of the weights, over a tenth of the steps so far and at most `horizon` of them."""

    def __init__(self, model, horizon):
        self.weights = {k: v.detach().clone() for k, v in model.named_parameters()}
        self.horizon, self.steps = horizon, 0

    def share(self):
        """What the next step() is called with."""
        self.steps += 1
        return 1 / min(self.horizon, 1 + self.steps / 10)

    def step(self, model, share):
        for k, v in model.named_parameters():
            self.weights[k].lerp_(v.detach(), share)


def losses(m, ids, target, a, drafted, fixed):
    """Main, draft and second draft losses, per token, each with the share of right argmaxes on the assistant's tokens.
    target: class of each id (stream.py); fixed: of fixed shapes, half of the positions are looked at, the most important first."""
    b, t = ids.shape
    h = m.hidden(ids)
    hs = h.shape[-1]
    w = torch.where(target == 1, 1.0, torch.where(target == 2, a.prompt_weight, 0.0))

    def head(states, shift):
        wanted, wt = ids[:, shift:].reshape(-1), w[:, shift:].reshape(-1)
        at = wt.argsort(descending=True)[:b * t // 2] if fixed else wt.nonzero()[:, 0]
        loss, right = m.loss(states[:, :-shift].reshape(-1, hs)[at], wanted[at], wt[at])
        mine = (wt[at] == 1).float()
        return loss / wt[at].sum().clamp(min=1), (right * mine).sum() / mine.sum().clamp(min=1)

    out = [*head(h, 1)]
    if drafted:
        n = m.mtp_hidden(ids.roll(-1, 1), h)
        out += head(n, 2)
        if a.deep:
            out += head(m.mtp_hidden(ids.roll(-2, 1), n), 3)
    return out


class Step:
    """step(ids, target, drafted, echoed, lr, lr_adam) trains on a batch; figures() gives and clears the means since the last call."""

    NAMES = ("loss", "right", "draft loss", "draft", "second draft loss", "second draft", "balance")

    def __init__(self, model, opt, average, a):
        self.m, self.opt, self.average, self.a = model, opt, average, a
        self.gpu = a.device != "cpu"
        self.sums = torch.zeros(2, 2, len(self.NAMES), device=a.device)  # dialogues or echoes; sums and counts
        self.kind = torch.zeros(1, dtype=torch.int64, device=a.device)
        self.rates = torch.zeros(5, device=a.device)
        self.graphs, self.pool, self.stream = {}, None, torch.cuda.Stream() if self.gpu else None

    def work(self, ids, target, drafted, rates):
        m, a = self.m, self.a
        m.zero_grad(set_to_none=True)
        out = losses(m, ids, target, a, drafted, self.gpu)
        balance = sum(x.mlp.balance for x in list(m.model.layers) + list(m.mtp.layers if drafted else []))
        (out[0] + sum(a.mtp_weight * x for x in out[2::2]) + 0.003 * balance).backward()
        self.opt.step(*rates[:4])
        self.average.step(m, rates[4])
        for layer in list(m.model.layers) + list(m.mtp.layers):
            layer.mlp.balance = None  # would keep the graph of gradients alive
        row = torch.stack([x.detach() for x in out])
        row = torch.cat([row, row.new_zeros(6 - len(out)), (balance.detach() / (8 + drafted))[None]])
        count = torch.cat([torch.ones_like(row[:len(out)]), row.new_zeros(6 - len(out)), torch.ones_like(row[:1])])
        self.sums.index_add_(0, self.kind, torch.stack([row, count])[None])

    def __call__(self, ids, target, drafted, echoed, lr, lr_adam):
        rates = *self.opt.rates(lr, lr_adam), self.average.share()
        self.kind.fill_(int(echoed))
        if not self.gpu:
            return self.work(ids, target, drafted, rates)
        self.rates.copy_(torch.tensor(rates))
        key = (*ids.shape, drafted)
        if key not in self.graphs:  # the first time as it is, to have every buffer made, and on a stream of its own, as recording wants it
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.work(ids.to(self.a.device), target.to(self.a.device), drafted, self.rates)
            torch.cuda.current_stream().wait_stream(self.stream)
            self.graphs[key] = None
            return
        if self.graphs[key] is None:
            x, w = ids.to(self.a.device), target.to(self.a.device)
            torch.cuda.synchronize()
            self.m.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                self.work(x, w, drafted, self.rates)
            self.pool = self.pool or graph.pool()
            self.graphs[key] = (graph, x, w)
        graph, x, w = self.graphs[key]
        x.copy_(ids)
        w.copy_(target)
        graph.replay()

    def figures(self):
        s = self.sums.cpu().clone()
        self.sums.zero_()
        mean = s[:, 0] / s[:, 1].clamp(min=1)
        return dict(zip(self.NAMES, mean[0].tolist()), echo=mean[1, 1].item())
