"""Answers to 3.4 with a known verdict."""

from grader.controls import right, wrong

MEAN_BUFFER = 'self.register_buffer("running_mean", torch.zeros(features))'
VAR_BUFFER = 'self.register_buffer("running_var", torch.ones(features))'
STATISTICS = "var, mean = torch.var_mean(x, dim=(0, 2)[: x.ndim - 1], correction=0)"
NO_GRAPH = "with torch.no_grad():"
RUNNING_MEAN = "self.running_mean.lerp_(mean, self.momentum)"
RUNNING_VAR = "self.running_var.lerp_(var * n / (n - 1), self.momentum)"
COUNT = "self.num_batches_tracked += 1"
EVAL = "mean, var = self.running_mean, self.running_var"
NORMALISED = "        return (x - mean) / std * weight + bias\n"
INPUT_NORM = "            norm(marks),\n"
HIDDEN_NORM = "            norm(channels),\n"
LOGITS = "return self.net(x).squeeze(1)"
SAME_START = 'networks["without"].load_state_dict(networks["with"].state_dict(), strict=False)'
SGD = "torch.optim.SGD(network.parameters(), lr=lr)"
SAME_ORDER = "generator=torch.Generator().manual_seed(order)"

WRONG = [
    wrong(
        "statistics_per_bin", "shapes", "gradients",
        says="For 3-D input your statistics run over the batch alone: each bin is normalised by itself. Use dim=(0, 2).",
        edit={
            NORMALISED: "        if self.training and x.ndim == 3:\n"
            "            var, mean = torch.var_mean(x, dim=0, correction=0)\n"
            "            std = (var + self.eps).sqrt()\n" + NORMALISED,
        },
    ),
    wrong(
        "unbiased_output", "shapes", "gradients",
        says="You divide by the unbiased standard deviation. The output takes the biased one (correction=0), only running_var "
        "the unbiased one.",
        edit={STATISTICS: STATISTICS.replace("correction=0", "correction=1"), "var * n / (n - 1)": "var"},
    ),
    wrong(
        "biased_running_var", "shapes",
        says="running_var collects the biased variance. It estimates the population's variance: multiply by n / (n - 1).",
        edit={"var * n / (n - 1)": "var"},
    ),
    wrong(
        "momentum_reversed", "shapes",
        says="Your momentum is the share of the old value. In BatchNorm it is the share of the new batch: 0.1, not 0.9.",
        edit={
            RUNNING_MEAN: RUNNING_MEAN.replace("self.momentum", "1 - self.momentum"),
            RUNNING_VAR: RUNNING_VAR.replace("self.momentum", "1 - self.momentum"),
        },
    ),
    wrong(
        "eps_outside_the_root", "shapes",
        says="You add eps to the standard deviation. It belongs to the variance: sqrt(var + eps), not sqrt(var) + eps.",
        edit={"(var + self.eps).sqrt()": "var.sqrt() + self.eps"},
    ),
    wrong(
        "detached_statistics", "gradients",
        says="Your mean and variance are detached, so the gradient takes them for constants. They depend on x as well; only "
        "the running buffers stay out of the graph.",
        edit={STATISTICS: STATISTICS.replace("(x,", "(x.detach(),")},
    ),
    wrong(
        "detached_variance", "gradients",
        says="Your variance is detached, so the gradient takes it for a constant. It depends on x as well.",
        edit={"self.num_batches_tracked += 1\n": "self.num_batches_tracked += 1\n            var = var.detach()\n"},
    ),
    wrong(
        "batch_statistics_in_eval", "shapes", "gradients",
        says="In eval mode you still normalise by the batch: a gene's prediction depends on who is predicted with it.",
        edit={EVAL: STATISTICS},
    ),
    wrong(
        "running_statistics_in_training", "shapes", "gradients",
        says="In training you normalise by the running buffers. They are for eval mode; training uses the batch itself.",
        edit={COUNT: COUNT + "\n            " + EVAL},
    ),
    wrong(
        "never_updated", "shapes", "convergence",
        says="Your running buffers are never updated: in eval mode the layer divides by 1 and normalises nothing.",
        edit={RUNNING_MEAN: "pass", RUNNING_VAR: "pass"},
    ),
    wrong(
        "updated_in_eval", "shapes",
        says="Your running buffers move in eval mode too: predicting would change the model.",
        edit={
            EVAL: EVAL + "\n            with torch.no_grad():\n"
            "                self.running_mean.lerp_(x.transpose(0, 1).flatten(1).mean(1), self.momentum)",
        },
    ),
    wrong(
        "batches_not_counted", "shapes",
        says="num_batches_tracked does not count the training batches.",
        edit={"                " + COUNT + "\n": ""},
    ),
    wrong(
        "buffers_as_parameters", "shapes",
        says="Your running statistics are parameters: an optimizer would train them. Use register_buffer.",
        edit={
            MEAN_BUFFER: "self.running_mean = nn.Parameter(torch.zeros(features))",
            VAR_BUFFER: "self.running_var = nn.Parameter(torch.ones(features))",
        },
    ),
    wrong(
        "buffers_as_attributes", "shapes",
        says="Your running statistics are plain attributes: state_dict() forgets them, .to() does not move them. Use "
        "register_buffer.",
        edit={
            MEAN_BUFFER: "self.running_mean = torch.zeros(features)",
            VAR_BUFFER: "self.running_var = torch.ones(features)",
        },
    ),
    wrong(
        "buffers_with_graph", "shapes", "gradients",
        says="Your running buffers carry the graph of every batch so far. Update them under torch.no_grad().",
        edit={
            NO_GRAPH: "with torch.enable_grad():",
            RUNNING_MEAN: "self.running_mean = self.running_mean + self.momentum * (mean - self.running_mean)",
            RUNNING_VAR: "self.running_var = self.running_var + self.momentum * (var * n / (n - 1) - self.running_var)",
        },
    ),
    wrong(
        "mean_of_squares_minus_squared_mean", "shapes",
        says="E[x^2] - E[x]^2 is the difference of two large numbers where the mean is large: nothing of the variance is left. "
        "Subtract the mean first, then square.",
        edit={
            STATISTICS: "mean = x.mean(dim=(0, 2)[: x.ndim - 1])\n"
            "            var = x.square().mean(dim=(0, 2)[: x.ndim - 1]) - mean.square()",
        },
    ),
    wrong(
        "two_rows_needed", "shapes",
        says="You refuse one gene in training even where it has many bins. What counts is the number of values per channel.",
        edit={"n = x.numel() // features\n": "n = len(x)\n"},
    ),
    wrong(
        "input_overwritten", "shapes", "gradients",
        says="You change the input in place. Whoever called you still needs it: make a new tensor.",
        edit={NORMALISED: "        return x.sub_(mean).div_(std) * weight + bias\n"},
    ),
    wrong(
        "calls_batch_norm", "shapes",
        says="Your BatchNorm1d calls torch's batch_norm. Write it with means and variances.",
        edit={
            NORMALISED: "        if not self.training:\n"
            "            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)\n"
            + NORMALISED,
        },
    ),
    wrong(
        "loop_over_channels", "throughput",
        says="You loop over the channels; mean and variance take a tuple of axes and do all channels at once.",
        edit={
            STATISTICS: "pairs = [torch.var_mean(x[:, k], correction=0) for k in range(features)]\n"
            "            var, mean = (torch.stack(values) for values in zip(*pairs, strict=True))",
            NORMALISED: "        channels = [(x[:, k] - mean[k]) / std[k] * weight[k] + bias[k] for k in range(features)]\n"
            "        return torch.stack(channels, dim=1)\n",
        },
    ),
    wrong(
        "norm_after_relu", "shapes", "gradients",
        says="Your second norm comes after the ReLU. It belongs between convolution and ReLU.",
        edit={HIDDEN_NORM + "            nn.ReLU(),\n": "            nn.ReLU(),\n" + HIDDEN_NORM},
    ),
    wrong(
        "raw_counts_into_the_convolution", "shapes", "gradients",
        says="Your network has no norm at its input: 30 reads per bin of one mark stand beside 0.15 of another.",
        edit={INPUT_NORM: "            nn.Identity(),\n"},
    ),
    wrong(
        "bias_dropped_with_norm", "shapes",
        says="Your convolution has no bias where a norm follows. It would be idle, but the contract keeps it, so that both "
        "networks hold the same weights.",
        edit={'padding="same")': 'padding="same", bias=not batch_norm)'},
    ),
    wrong(
        "always_normalised", "shapes", "convergence",
        says="Your HistoneCNN has its norms also with batch_norm=False.",
        edit={"norm = BatchNorm1d if batch_norm else nn.Identity": "norm = BatchNorm1d"},
    ),
    wrong(
        "squeezes_the_batch", "shapes",
        says="squeeze() without a dimension also removes a batch of one: use squeeze(1).",
        edit={LOGITS: "return self.net(x).squeeze()"},
    ),
    wrong(
        "probabilities", "shapes", "gradients",
        says="Your forward returns probabilities. Return the logits: the loss applies the sigmoid.",
        edit={LOGITS: "return self.net(x).squeeze(1).sigmoid()"},
    ),
    wrong(
        "different_start", "shapes",
        says="The two networks start from different weights: the comparison measures luck as well.",
        edit={SAME_START: "pass"},
    ),
    wrong(
        "different_batch_order", "shapes",
        says="The two networks see different batches: give each a generator in the same state.",
        edit={SAME_ORDER: "generator=torch.Generator().manual_seed(order + len(name))"},
    ),
    wrong(
        "adam", "shapes",
        says="You train with Adam. It rescales each gradient by itself, which hides what the comparison is to show: plain SGD.",
        edit={SGD: "torch.optim.Adam(network.parameters(), lr=lr)"},
    ),
    wrong(
        "momentum_in_sgd", "shapes",
        says="Your SGD has momentum; the comparison is about plain SGD.",
        edit={SGD: "torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)"},
    ),
    wrong(
        "ignores_the_learning_rate", "shapes",
        says="You train with a learning rate of your own, whatever lr says.",
        edit={SGD: "torch.optim.SGD(network.parameters(), lr=0.05)"},
    ),
    wrong(
        "one_batch_an_epoch", "shapes",
        says="You take all rows as one batch: eight epochs are then eight steps. Use batches of 64.",
        edit={SAME_ORDER: "batch_size=len(train[0]),\n                " + SAME_ORDER},
    ),
    wrong(
        "always_the_same_seed", "shapes",
        says="The generator decides nothing: every call starts from the same weights.",
        edit={"with seeded(generator):": "with seeded(torch.Generator().manual_seed(0)):"},
    ),
    wrong(
        "disturbs_the_global_stream", "shapes",
        says="You seed or use torch's global random stream. Build and train within `with seeded(generator):`.",
        edit={
            "with seeded(generator):": "if generator is not None:\n"
            "        torch.manual_seed(torch.randint(2**62, (), generator=generator).item())\n    if True:",
        },
    ),
    wrong(
        "no_validation", "shapes",
        says="Sizes, channels or batches that the contract refuses are accepted; it asks for a ValueError.",
        edit={
            "if features < 1:": "if False:", "if x.ndim not in (2, 3) or x.shape[1] != features:": "if False:",
            "if n < 2:": "if False:", "if size < least:": "if False:", "if epochs < 0:": "if False:",
        },
    ),
]  # fmt: skip

RIGHT = [
    right(
        "old_fashioned",
        define='''
class BatchNorm1d(nn.Module):
    def __init__(self, features, eps=1e-5, momentum=0.1):
        super(BatchNorm1d, self).__init__()
        if features <= 0:
            raise ValueError("features: expected a positive number, got %s" % features)
        if eps < 0 or momentum < 0 or momentum > 1:
            raise ValueError("expected eps >= 0 and 0 <= momentum <= 1, got %s and %s" % (eps, momentum))
        self.features, self.eps, self.momentum = features, eps, momentum
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x):
        if x.dim() == 2:
            if x.size(1) != self.features:
                raise ValueError("x: expected %s columns, got %s" % (self.features, x.size(1)))
            return self.normalise(x.unsqueeze(2)).squeeze(2)
        if x.dim() == 3:
            if x.size(1) != self.features:
                raise ValueError("x: expected %s channels, got %s" % (self.features, x.size(1)))
            return self.normalise(x)
        raise ValueError("x: expected 2 or 3 dimensions, got %s" % x.dim())

    def normalise(self, x):
        if self.training:
            if x.size(0) * x.size(2) < 2:
                raise ValueError("x: expected more than one value per channel, got %s" % (tuple(x.shape),))
            mean = x.mean(dim=(0, 2), keepdim=True)
            variance = x.var(dim=(0, 2), keepdim=True, unbiased=False)
            unbiased = x.detach().var(dim=(0, 2))
            self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean.detach().flatten()
            self.running_var = (1 - self.momentum) * self.running_var + self.momentum * unbiased
            self.num_batches_tracked = self.num_batches_tracked + 1
        else:
            mean = self.running_mean.view(1, -1, 1)
            variance = self.running_var.view(1, -1, 1)
        x_hat = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight.view(1, -1, 1) * x_hat + self.bias.view(1, -1, 1)


class HistoneCNN(nn.Module):
    def __init__(self, marks=5, bins=50, channels=16, batch_norm=True):
        super(HistoneCNN, self).__init__()
        if marks < 1 or channels < 1 or bins < 5:
            raise ValueError("expected marks, channels >= 1 and bins >= 5, got %s" % ((marks, channels, bins),))
        self.shape = (marks, bins)
        self.norm_in = nn.BatchNorm1d(marks) if batch_norm else None
        self.conv = nn.Conv1d(marks, channels, kernel_size=7, padding=3)
        self.norm_hidden = nn.BatchNorm1d(channels) if batch_norm else None
        self.fc1 = nn.Linear(channels * (bins // 5), 32)
        self.fc2 = nn.Linear(32, 1)

    def forward(self, x):
        if x.dim() != 3 or (x.size(1), x.size(2)) != self.shape:
            raise ValueError("x: expected (batch, %s, %s), got %s" % (self.shape + (tuple(x.shape),)))
        if self.norm_in is not None:
            x = self.norm_in(x)
        x = self.conv(x)
        if self.norm_hidden is not None:
            x = self.norm_hidden(x)
        x = F.max_pool1d(F.relu(x), 5)
        x = F.relu(self.fc1(x.view(x.size(0), -1)))
        return self.fc2(x)[:, 0]


def compare_batch_norm(train, valid=None, *, epochs=8, lr=0.05, generator=None):
    if epochs < 0:
        raise ValueError("epochs: expected at least 0, got %s" % epochs)
    _, marks, bins = train[0].shape
    with seeded(generator):
        with_norm = HistoneCNN(marks, bins)
        without_norm = HistoneCNN(marks, bins, batch_norm=False)
        without_norm.conv.load_state_dict(with_norm.conv.state_dict())
        without_norm.fc1.load_state_dict(with_norm.fc1.state_dict())
        without_norm.fc2.load_state_dict(with_norm.fc2.state_dict())
        order = torch.Generator()
        order.manual_seed(int(torch.randint(0, 2**31, (1,))))
        start = order.get_state()
        results = {}
        for name, model in (("with", with_norm), ("without", without_norm)):
            order.set_state(start)
            optimizer = torch.optim.SGD(model.parameters(), lr=lr)
            if epochs == 0:
                results[name] = (model, History())
            else:
                results[name] = (model, fit(model, train, valid, loss_fn=nn.BCEWithLogitsLoss(), optimizer=optimizer,
                                            epochs=epochs, batch_size=64, generator=order))
    return results
''',
    ),
    right(
        "two_pass_and_deepcopy",
        define='''
class BatchNorm1d(nn.Module):
    """Channels last: then everything per channel broadcasts by itself."""

    def __init__(self, features, *, eps=1e-5, momentum=0.1):
        super().__init__()
        if not (features >= 1 and eps >= 0 and 0 <= momentum <= 1):
            raise ValueError(f"bad {features=}, {eps=} or {momentum=}: expected features >= 1, eps >= 0, 0 <= momentum <= 1")
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.running_mean = nn.Buffer(torch.zeros(features))
        self.running_var = nn.Buffer(torch.ones(features))
        self.num_batches_tracked = nn.Buffer(torch.tensor(0))

    def forward(self, x):
        if x.dim() not in {2, 3} or x.size(1) != self.weight.numel():
            raise ValueError(f"x: got {tuple(x.shape)}, expected {self.weight.numel()} channels on axis 1 of 2 or 3")
        rows = x.movedim(1, -1)
        values = rows.reshape(-1, rows.shape[-1])
        if self.training:
            n = len(values)
            if n <= 1:
                raise ValueError(f"x: a variance needs two values per channel, got {n}")
            mean = values.sum(0) / n
            squares = (values - mean).pow(2).sum(0)
            var = squares / n
            self.running_mean.data += self.momentum * (mean.data - self.running_mean)
            self.running_var.data += self.momentum * (squares.data / (n - 1) - self.running_var)
            self.num_batches_tracked.add_(1)
        else:
            mean, var = self.running_mean, self.running_var
        return torch.addcmul(self.bias, (rows - mean) * torch.rsqrt(var + self.eps), self.weight).movedim(-1, 1)


def compare_batch_norm(train, valid=None, *, epochs=8, lr=0.05, generator=None):
    import copy

    if epochs < 0:
        raise ValueError(f"epochs={epochs}, expected >= 0")
    with seeded(generator):
        network = HistoneCNN(train[0].shape[1], train[0].shape[2])
        twin = copy.deepcopy(network)
        twin.net[0], twin.net[2] = nn.Identity(), nn.Identity()
        seed = torch.initial_seed() if generator is not None else torch.seed()
    return {"with": (network, _train(network, train, valid, epochs, lr, seed)),
            "without": (twin, _train(twin, train, valid, epochs, lr, seed))}


def _train(network, train, valid, epochs, lr, seed):
    history = History()
    data = torch.utils.data.TensorDataset(*train)
    batches = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(seed))
    for _ in range(epochs):
        network.train()
        total = 0.0
        for x, y in batches:
            loss = F.binary_cross_entropy(network(x).sigmoid(), y)
            network.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in network.parameters():
                    p -= lr * p.grad
            total += loss.item() * len(x)
        history.train_loss.append(total / len(data))
        history.lr.append(lr)
        if valid is not None:
            network.eval()
            with torch.no_grad():
                history.valid_loss.append(F.binary_cross_entropy_with_logits(network(valid[0]), valid[1]).item())
    return history
''',
    ),
    right(
        "functional_network",
        define='''
class HistoneCNN(nn.Module):
    """Parameters of its own, torch's functions; the norms' buffers have names of their own."""

    def __init__(self, marks=5, bins=50, channels=16, *, batch_norm=True):
        super().__init__()
        if min(marks, channels) < 1:
            raise ValueError(f"marks and channels must be positive, got {marks} and {channels}")
        if bins < 5:
            raise ValueError(f"bins must be at least 5, got {bins}")
        self.marks, self.bins, self.batch_norm = marks, bins, batch_norm
        if batch_norm:
            self.g0, self.b0 = nn.Parameter(torch.ones(marks)), nn.Parameter(torch.zeros(marks))
            self.register_buffer("m0", torch.zeros(marks))
            self.register_buffer("v0", torch.ones(marks))
        conv = nn.Conv1d(marks, channels, 7)
        self.kernel, self.offset = conv.weight, conv.bias
        if batch_norm:
            self.g1, self.b1 = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
            self.register_buffer("m1", torch.zeros(channels))
            self.register_buffer("v1", torch.ones(channels))
        self.hidden = nn.Linear(bins // 5 * channels, 32)
        self.out = nn.Linear(32, 1)

    def forward(self, x):
        if x.ndim != 3 or tuple(x.shape[1:]) != (self.marks, self.bins):
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, {self.marks}, {self.bins})")
        if self.batch_norm:
            x = F.batch_norm(x, self.m0, self.v0, self.g0, self.b0, training=self.training, momentum=0.1, eps=1e-5)
        x = F.conv1d(F.pad(x, (3, 3)), self.kernel, self.offset)
        if self.batch_norm:
            x = F.batch_norm(x, self.m1, self.v1, self.g1, self.b1, training=self.training, momentum=0.1, eps=1e-5)
        x = x.clamp(min=0).unfold(2, 5, 5).amax(-1)
        return self.out(self.hidden(x.flatten(1)).relu()).squeeze(-1)


def compare_batch_norm(train, valid=None, *, epochs=8, lr=0.05, generator=None):
    if epochs < 0:
        raise ValueError(f"epochs must be at least 0, got {epochs}")
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    state = generator.get_state()
    result = {}
    for name in ("without", "with"):
        generator.set_state(state)
        with seeded(generator):
            network = HistoneCNN(*train[0].shape[1:], batch_norm=name == "with")
            history = fit(
                network, train, valid, loss_fn=F.binary_cross_entropy_with_logits, epochs=epochs, generator=generator,
                optimizer=torch.optim.SGD(network.parameters(), lr),
            ) if epochs > 0 else History()
        result[name] = (network, history)
    return result
''',
    ),
]  # fmt: skip
