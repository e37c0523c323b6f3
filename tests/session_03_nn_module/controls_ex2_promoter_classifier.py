"""Answers to 3.2 with a known verdict."""

from grader.controls import right, wrong

CHECK = "if x.ndim != 3 or x.shape[1] != 4 or x.shape[2] < 1:"
CONV = 'self.conv = nn.Conv1d(4, channels, width, padding="same")'
HEAD = "self.head = nn.Linear(channels, 1)"
POOLED = "best_match = self.conv(x).relu().amax(dim=2)"
LOGIT = "return self.head(self.dropout(best_match)).squeeze(1)"
LOSS = "loss_fn=F.binary_cross_entropy_with_logits,"
PARAMETERS = "torch.optim.AdamW(model.parameters(),"

UNSHUFFLED = """
def fit(model, train, valid, *, loss_fn, optimizer, epochs, batch_size):
    history = History()
    model.train()
    for epoch in range(epochs):
        losses = []
        for x, y in zip(train[0].split(batch_size), train[1].split(batch_size)):
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.train_loss.append(sum(losses) / len(losses))
        history.lr.append(optimizer.param_groups[0]["lr"])
        if valid is not None:
            with torch.no_grad():
                history.valid_loss.append(loss_fn(model.eval()(valid[0]), valid[1]).item())
            model.train()
    return history
"""

WRONG = [
    wrong(
        "sigmoid_in_forward", "shapes", "gradients", "convergence",
        says="Your forward returns probabilities. Return the logits: the loss applies the sigmoid.",
        edit={LOGIT: "return self.head(self.dropout(best_match)).squeeze(1).sigmoid()"},
    ),
    wrong(
        "sigmoid_before_the_loss", "shapes",
        says="You apply a sigmoid before binary_cross_entropy_with_logits, which applies one itself.",
        edit={LOSS: "loss_fn=lambda z, y: F.binary_cross_entropy_with_logits(z.sigmoid(), y),"},
    ),
    wrong(
        "mean_pooling", "shapes", "gradients", "convergence",
        says="You average over the positions: one perfect match drowns among a hundred. Take the maximum.",
        edit={POOLED: "best_match = self.conv(x).relu().mean(dim=2)"},
    ),
    wrong(
        "flattened_positions", "shapes", "gradients",
        says="You flatten the positions, so that every position has its own weights and only one length fits.",
        edit={
            HEAD: "self.head = nn.Linear(100 * channels, 1)",
            POOLED: "best_match = self.conv(x).relu().flatten(1)",
        },
    ),
    wrong(
        "mlp_on_flattened_bases", "shapes", "gradients", "convergence",
        says="There is no convolution: a motif would have to be learned anew at each position.",
        edit={
            CONV: "self.conv = nn.Linear(400, channels)",
            POOLED: "best_match = self.conv(x.flatten(1)).relu()",
        },
    ),
    wrong(
        "length_as_channels", "shapes", "gradients", "convergence",
        says="You transposed the input: the filters slide over the four bases instead of along the sequence.",
        edit={
            CONV: 'self.conv = nn.Conv1d(100, channels, width, padding="same")',
            POOLED: "best_match = self.conv(x.transpose(1, 2)).relu().amax(dim=2)",
        },
    ),
    wrong(
        "maximum_over_the_filters", "shapes", "gradients",
        says="You take the maximum over the filters (dim=1). Take it over the positions (dim=2).",
        edit={
            HEAD: "self.head = nn.Linear(100, 1)",
            POOLED: "best_match = self.conv(x).relu().amax(dim=1)",
        },
    ),
    wrong(
        "no_relu", "shapes", "gradients",
        says="There is no ReLU: a filter that matches nowhere should say 0, not how badly it fails.",
        edit={POOLED: "best_match = self.conv(x).amax(dim=2)"},
    ),
    wrong(
        "column_of_logits", "shapes", "gradients", "convergence",
        says="Your logits are (batch, 1), and against labels (batch,) they would broadcast to (batch, batch).",
        edit={
            LOGIT: "return self.head(self.dropout(best_match))",
            LOSS: "loss_fn=lambda z, y: F.binary_cross_entropy_with_logits(z, y[:, None]),",
        },
    ),
    wrong(
        "squeeze_everything", "shapes",
        says="squeeze() removes every axis of size 1, also a batch of one. Use squeeze(1).",
        edit={LOGIT: "return self.head(self.dropout(best_match)).squeeze()"},
    ),
    wrong(
        "dropout_in_eval_mode", "shapes",
        says="Your dropout is active in eval mode too: F.dropout needs training=self.training.",
        edit={LOGIT: "return self.head(F.dropout(best_match, self.dropout.p)).squeeze(1)"},
    ),
    wrong(
        "dropout_before_pooling", "shapes",
        says="You drop single positions before the maximum is taken; drop the maxima.",
        edit={
            POOLED: "best_match = self.dropout(self.conv(x).relu()).amax(dim=2)",
            LOGIT: "return self.head(best_match).squeeze(1)",
        },
    ),
    wrong(
        "no_dropout", "shapes",
        says="Nothing is dropped in training.",
        edit={LOGIT: "return self.head(best_match).squeeze(1)"},
    ),
    wrong(
        "dropout_is_the_share_kept", "shapes",
        says="Your dropout keeps what it should drop: the argument is the probability of dropping.",
        edit={"self.dropout = nn.Dropout(dropout)": "self.dropout = nn.Dropout(1 - dropout if dropout else 0.0)"},
    ),
    wrong(
        "no_padding", "shapes", "gradients",
        says="Without padding, sequences that are shorter than a filter fail, and motifs at the ends are cut.",
        edit={CONV: "self.conv = nn.Conv1d(4, channels, width)"},
    ),
    wrong(
        "circular_padding", "shapes", "gradients",
        says="Your padding is not zeros: beyond the ends of the window lies the unknown, N.",
        edit={CONV: 'self.conv = nn.Conv1d(4, channels, width, padding="same", padding_mode="circular")'},
    ),
    wrong(
        "rows_mixed", "shapes", "gradients",
        says="The logit of one sequence depends on the other sequences of its batch.",
        edit={POOLED: "best_match = self.conv(x).relu().amax(dim=2)\n        best_match = best_match - best_match.mean(dim=0)"},
    ),
    wrong(
        "no_shuffling", "convergence",
        says="You never shuffle: with all promoters first, half of the batches see nothing but promoters.",
        define=UNSHUFFLED,
    ),
    wrong(
        "reseeds_the_global_stream", "shapes",
        says="You reseed the global random stream: everybody who draws from it afterwards gets other numbers.",
        edit={
            "    with seeded(generator):\n": "    if generator is not None:\n"
            "        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))\n    if True:\n",
        },
    ),
    wrong(
        "ignores_the_generator", "shapes",
        says="The generator only shuffles, or nothing: the initial weights and the dropout must follow it as well.",
        edit={"    with seeded(generator):\n": "    with seeded(None):\n"},
    ),
    wrong(
        "always_the_same_seed", "shapes",
        says="The generator does not matter: each training gives the same network.",
        edit={"    with seeded(generator):\n": "    with seeded(torch.Generator().manual_seed(0)):\n"},
    ),
    wrong(
        "no_history", "shapes",
        says="The history is empty: note the loss and the learning rate of each epoch.",
        edit={"    return model, history\n": "    return model, History()\n"},
    ),
    wrong(
        "validates_in_train_mode", "shapes",
        says="You compute the validation loss with dropout switched on.",
        edit={
            "            valid,\n            loss_fn": "            None,\n            loss_fn",
            "    return model, history\n": "    with torch.no_grad():\n"
            "        if valid is not None:\n"
            "            history.valid_loss = [F.binary_cross_entropy_with_logits(model.train()(valid[0]), valid[1]).item()\n"
            "                                  for _ in range(epochs)]\n"
            "    return model, history\n",
        },
    ),
    wrong(
        "only_the_head_learns", "gradients", "convergence",
        says="Only the head is trained: the filters stay what chance made them.",
        edit={PARAMETERS: "torch.optim.AdamW(model.head.parameters(),"},
    ),
    wrong(
        "detached_filters", "gradients", "convergence",
        says="You detach after the convolution, so that no gradient reaches the filters.",
        edit={POOLED: "best_match = self.conv(x).relu().amax(dim=2).detach()"},
    ),
    wrong(
        "no_validation", "shapes",
        says="Sizes below 1 and inputs of the wrong shape are accepted; the contract asks for a ValueError.",
        edit={"if size < 1:": "if False:", CHECK: "if False:", "if number < 1:": "if False:"},
    ),
    wrong(
        "loop_over_sequences", "throughput",
        says="You loop over the sequences of the batch; the convolution takes them all at once.",
        edit={
            POOLED: "rows = [self.conv(row[None]).relu().amax(dim=2) for row in x]\n"
            "        best_match = torch.cat(rows) if rows else self.conv(x).relu().amax(dim=2)"
        },
    ),
    wrong(
        "loop_over_positions", "throughput",
        says="You loop over the positions; the convolution looks at all of them at once.",
        edit={
            POOLED: "weight, width = self.conv.weight, self.conv.weight.shape[2]\n"
            "        padded = F.pad(x, (width // 2, width // 2))\n"
            "        scores = [padded[:, :, i : i + width].flatten(1) @ weight.flatten(1).mT for i in range(x.shape[2])]\n"
            "        best_match = (torch.stack(scores, dim=2) + self.conv.bias[:, None]).relu().amax(dim=2)"
        },
    ),
]  # fmt: skip

RIGHT = [
    right(
        "old_fashioned",
        define="""
class PromoterCNN(nn.Module):
    def __init__(self, channels=16, width=11, dropout=0.2):
        super(PromoterCNN, self).__init__()
        if channels <= 0 or width <= 0:
            raise ValueError("channels and width must be positive, got %s and %s" % (channels, width))
        self.head = nn.Linear(channels, 1)
        self.drop = nn.Dropout(p=dropout)
        self.conv = nn.Conv1d(in_channels=4, out_channels=channels, kernel_size=width, padding=width // 2)

    def forward(self, x):
        if x.dim() != 3 or x.size(1) != 4 or x.size(2) == 0:
            raise ValueError("x: expected (batch, 4, length), got %s" % (tuple(x.size()),))
        h = F.relu(self.conv(x))
        h = F.max_pool1d(h, kernel_size=h.size(2))
        h = torch.squeeze(h, 2)
        return self.head(self.drop(h)).view(-1)


def fit_promoter_cnn(train, valid=None, *, epochs=15, batch_size=64, generator=None):
    if epochs < 1 or batch_size < 1:
        raise ValueError("epochs and batch_size must be positive, got %s and %s" % (epochs, batch_size))
    with seeded(generator):
        model = PromoterCNN()
        data = torch.utils.data.TensorDataset(*train)
        loader = torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=True)
        criterion = nn.BCEWithLogitsLoss()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1e-2, epochs=epochs, steps_per_epoch=len(loader)
        )
        history = History()
        for epoch in range(epochs):
            model.train()
            running = 0.0
            for inputs, labels in loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs), labels)
                loss.backward()
                optimizer.step()
                scheduler.step()
                running += loss.item() * inputs.size(0)
            history.train_loss.append(running / len(data))
            history.lr.append(scheduler.get_last_lr()[0])
            if valid is not None:
                model.eval()
                with torch.no_grad():
                    history.valid_loss.append(criterion(model(valid[0]), valid[1]).item())
    return model, history
""",
    ),
    right(
        "sequential_with_a_constant_rate",
        define="""
class PromoterCNN(nn.Module):
    def __init__(self, channels=16, width=11, dropout=0.2):
        super().__init__()
        if min(channels, width) < 1:
            raise ValueError(f"expected channels >= 1 and width >= 1, got {channels} and {width}")
        self.net = nn.Sequential(
            nn.Conv1d(4, channels, width, padding="same"),
            nn.AdaptiveMaxPool1d(1),
            nn.ReLU(),
            nn.Dropout1d(dropout),
            nn.Flatten(),
            nn.Linear(channels, 1),
            nn.Flatten(0),
        )
        self.conv, self.head = self.net[0], self.net[5]

    def forward(self, x):
        if x.ndim != 3 or x.shape[1] != 4 or not x.shape[2]:
            raise ValueError(f"x: expected (batch, 4, length >= 1), got {tuple(x.shape)}")
        return self.net(x)


def fit_promoter_cnn(train, valid=None, *, epochs=15, batch_size=64, generator=None):
    with seeded(generator):
        model = PromoterCNN()
        return model, fit(
            model, train, valid, loss_fn=nn.BCEWithLogitsLoss(), epochs=epochs, batch_size=batch_size,
            optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3), generator=generator,
        )
""",
    ),
    right(
        "unfold_and_einsum_with_adam",
        define="""
class PromoterCNN(nn.Module):
    def __init__(self, channels=16, width=11, dropout=0.2):
        super().__init__()
        if channels < 1 or width < 1 or not 0 <= dropout <= 1:
            raise ValueError(f"bad channels, width or dropout: {channels}, {width}, {dropout}")
        self.p = dropout
        self.conv = nn.Conv1d(4, channels, width)
        self.head = nn.Linear(channels, 1)
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        if x.dim() != 3 or x.size(1) != 4 or x.size(2) < 1:
            raise ValueError(f"x must be (batch, 4, length), got {list(x.shape)}")
        width = self.conv.kernel_size[0]
        windows = F.pad(x, (width // 2, width // 2)).unfold(2, width, 1)
        scores = torch.einsum("bclw,ocw->bol", windows, self.conv.weight)
        found = (scores.max(dim=-1).values + self.conv.bias).clamp(min=0)
        found = F.dropout(found, self.p, training=self.training)
        return found @ self.head.weight[0] + self.head.bias


def fit_promoter_cnn(train, valid=None, *, epochs=15, batch_size=64, generator=None):
    if epochs < 1:
        raise ValueError(f"epochs: {epochs}")
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size}")
    x, y = train
    history = History()
    with seeded(generator):
        model = PromoterCNN()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(epochs):
            losses = torch.zeros(0)
            order = torch.randperm(len(x))
            for start in range(0, len(x), batch_size):
                rows = order[start : start + batch_size]
                optimizer.zero_grad()
                loss = F.binary_cross_entropy(torch.sigmoid(model(x[rows])), y[rows], reduction="none")
                loss.mean().backward()
                optimizer.step()
                losses = torch.cat([losses, loss.detach()])
            history.train_loss.append(float(losses.mean()))
            history.lr.append(1e-3)
            if valid is not None:
                model.eval()
                with torch.inference_mode():
                    history.valid_loss.append(F.binary_cross_entropy(model(valid[0]).sigmoid(), valid[1]).item())
                model.train()
    return model, history
""",
    ),
    right(
        "keeps_the_best_epoch",
        define="""
def fit_promoter_cnn(train, valid=None, *, epochs=15, batch_size=64, generator=None):
    if not (epochs >= 1 and batch_size >= 1):
        raise ValueError(f"epochs and batch_size must be >= 1, got {epochs=} and {batch_size=}")
    generator = generator or torch.default_generator
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, history, best = PromoterCNN(), History(), None
        optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for epoch in range(epochs):
            weights = torch.ones(len(train[0]))
            rows = torch.multinomial(weights, len(train[0]))
            total = 0.0
            for x, y in zip(train[0][rows].split(batch_size), train[1][rows].split(batch_size), strict=True):
                optimizer.zero_grad(set_to_none=False)
                z = model.train()(x)
                loss = (F.softplus(z) - y * z).mean()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                total += float(loss.detach()) * len(x)
            history.train_loss.append(total / len(rows))
            history.lr.append(optimizer.param_groups[0]["lr"])
            decay.step()
            if valid is not None:
                with torch.no_grad():
                    z = model.eval()(valid[0])
                    history.valid_loss.append(float((F.softplus(z) - valid[1] * z).mean()))
                if best is None or history.valid_loss[-1] < history.valid_loss[history.best_epoch]:
                    history.best_epoch = epoch
                    best = {name: value.clone() for name, value in model.state_dict().items()}
        if best is not None:
            model.load_state_dict(best)
    return model.eval(), history
""",
    ),
]
